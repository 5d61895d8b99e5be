//! The few styles of the live view. Colours are the terminal's own sixteen, so that they fit its background.

use ratatui::style::{Color, Modifier, Style};

/// From this share of a request, limit or node on, use is worth a look.
pub const WATCH: f64 = 0.8;

/// How things look.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    colour: bool,
}

impl Theme {
    /// With colours, or with bold, dim and reverse only.
    pub fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// Colours, unless the user set `NO_COLOR` (<https://no-color.org>).
    pub fn from_environment() -> Self {
        Self::new(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    /// What is there but not looked for.
    pub fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// The product's name, the keys, the column that orders the rows.
    pub fn accent(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// Sparklines and filled bars.
    pub fn graph(self) -> Style {
        self.coloured(Color::Cyan)
    }

    /// Names and what stands out.
    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Worth a look.
    pub fn watch(self) -> Style {
        self.coloured(Color::Yellow)
    }

    /// Something is wrong or over its bound.
    pub fn alarm(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// The row the cursor is on.
    pub fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Use as a share of what was requested or allowed: calm below 80 %, then a look, above 100 % an alarm.
    pub fn share(self, ratio: Option<f64>) -> Style {
        match ratio {
            Some(r) if r > 1.0 => self.alarm(),
            Some(r) if r >= WATCH => self.watch(),
            _ => Style::new(),
        }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_calm_until_80_percent_and_red_only_above_100() {
        let theme = Theme::new(true);
        for (ratio, colour) in [
            (None, None),
            (Some(0.79), None),
            (Some(0.8), Some(Color::Yellow)),
            (Some(1.0), Some(Color::Yellow)),
            (Some(1.01), Some(Color::Red)),
        ] {
            assert_eq!(theme.share(ratio).fg, colour, "{ratio:?}");
        }
    }

    #[test]
    fn without_colour_no_style_has_one() {
        let theme = Theme::new(false);
        for style in
            [theme.quiet(), theme.accent(), theme.graph(), theme.strong(), theme.watch(), theme.alarm(), theme.selected()]
        {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
