//! The few styles of the live view. Colours are the terminal's own sixteen, so that they fit its background.

use ratatui::style::{Color, Modifier, Style};

/// From this share of a limit or of the node on, use is worth a look.
pub const WATCH: f64 = 0.8;

/// From this share on it is at its limit.
const ALARM: f64 = 0.95;

/// How things look.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    colour: bool,
    unicode: bool,
}

impl Theme {
    /// With colours, or with bold, dim and reverse only; with lines and bars, or in ASCII.
    pub fn new(colour: bool, unicode: bool) -> Self {
        Self { colour, unicode }
    }

    /// Whether characters beyond ASCII can be shown.
    pub fn unicode(self) -> bool {
        self.unicode
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

    /// Use as a share of what is allowed: calm below 80 %, then worth a look, from 95 % on an alarm.
    pub fn share(self, ratio: Option<f64>) -> Style {
        match ratio {
            Some(r) if r >= ALARM => self.alarm(),
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
    fn shares_are_calm_until_80_percent_and_red_only_near_the_limit() {
        let theme = Theme::new(true, true);
        for (ratio, colour) in [
            (None, None),
            (Some(0.79), None),
            (Some(0.8), Some(Color::Yellow)),
            (Some(0.94), Some(Color::Yellow)),
            (Some(0.95), Some(Color::Red)),
            (Some(1.01), Some(Color::Red)),
        ] {
            assert_eq!(theme.share(ratio).fg, colour, "{ratio:?}");
        }
    }

    #[test]
    fn without_colour_no_style_has_one() {
        let theme = Theme::new(false, true);
        for style in
            [theme.quiet(), theme.accent(), theme.graph(), theme.strong(), theme.watch(), theme.alarm(), theme.selected()]
        {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
