//! Pages of text that cover the table: the help, and the state of the signals.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use super::actions::TextPage;
use super::keys::{HELP, MEANING, REPLAY};
use super::state::TopState;
use super::status::{self, StatusMark};
use super::theme::Theme;

/// Columns of a key or a figure's name.
const NAME: usize = 20;

/// From this width on, keys and figures are side by side.
const SIDE_BY_SIDE: usize = 130;

/// Draws the part of a page that fits, from where the user has moved it to.
pub fn draw(buffer: &mut Buffer, area: Rect, page: TextPage, state: &mut TopState, theme: Theme) {
    let width = usize::from(area.width);
    let lines = match page {
        TextPage::Help => help(width, state.past().is_some(), theme),
        TextPage::Signals => signals(width, state, theme),
    };
    let visible = state.visible_text(lines.len(), area.height.into());
    for (y, line) in (area.y..area.bottom()).zip(&lines[visible]) {
        line.render(Rect { y, height: 1, ..area }, buffer);
    }
}

fn help(width: usize, is_replay: bool, theme: Theme) -> Vec<Line<'static>> {
    let (mut keys, meanings) = (list("Keys", HELP, theme), list("Columns", MEANING, theme));
    if is_replay {
        keys = [list("Keys of a replay", REPLAY, theme), vec![Line::default()], keys].concat();
    }
    if width < SIDE_BY_SIDE {
        return [keys, vec![Line::default()], meanings].concat();
    }
    let (mut keys, mut meanings) = (keys.into_iter(), meanings.into_iter());
    let lines = keys.len().max(meanings.len());
    let side_by_side = |_| {
        let mut line = keys.next().unwrap_or_default();
        let room = (width / 2).saturating_sub(line.width());
        line.spans.push(Span::raw(" ".repeat(room)));
        line.spans.extend(meanings.next().unwrap_or_default().spans);
        line
    };
    (0..lines).map(side_by_side).collect()
}

fn list(heading: &'static str, entries: &'static [(&str, &str)], theme: Theme) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from(Span::styled(heading, theme.accent()))];
    lines.extend(entries.iter().map(|(name, text)| {
        Line::from(vec![Span::styled(format!("{name:<NAME$}"), theme.strong()), Span::styled(*text, theme.quiet())])
    }));
    lines
}

fn signals(width: usize, state: &TopState, theme: Theme) -> Vec<Line<'static>> {
    const INDENT: usize = 17;
    let mut lines = vec![Line::from(Span::styled("Signals", theme.accent()))];
    for entry in state.snapshot().map(status::entries).unwrap_or_default() {
        let style = if entry.mark == StatusMark::Off { theme.watch() } else { theme.quiet() };
        let mut head = vec![
            Span::styled(format!("{:<12}", entry.name), theme.strong()),
            Span::styled(format!("{:<5}", entry.mark.as_str()), style),
        ];
        for text in status::wrap(&entry.text, width.saturating_sub(INDENT).max(20)) {
            head.push(Span::styled(text, theme.quiet()));
            lines.push(Line::from(std::mem::replace(&mut head, vec![Span::raw(" ".repeat(INDENT))])));
        }
        if head.len() > 1 {
            lines.push(Line::from(head));
        }
    }
    lines
}
