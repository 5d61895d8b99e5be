//! What the keys do and what the figures mean.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::keys::{HELP, MEANING};
use super::theme::Theme;

/// Columns of a key or a figure's name.
const NAME: u16 = 20;

/// Draws both lists: side by side where there is room, else one below the other.
pub fn draw(buffer: &mut Buffer, area: Rect, theme: Theme) {
    const SIDE_BY_SIDE: u16 = 124;
    if area.width >= SIDE_BY_SIDE {
        let half = area.width / 2;
        list(buffer, Rect { width: half, ..area }, "Keys", HELP, theme);
        list(buffer, Rect { x: area.x + half, width: area.width - half, ..area }, "Figures", MEANING, theme);
        return;
    }
    let used = list(buffer, area, "Keys", HELP, theme).saturating_add(1).min(area.height);
    list(buffer, Rect { y: area.y + used, height: area.height - used, ..area }, "Figures", MEANING, theme);
}

/// Returns the lines it took.
fn list(buffer: &mut Buffer, area: Rect, heading: &str, entries: &[(&str, &str)], theme: Theme) -> u16 {
    if area.is_empty() {
        return 0;
    }
    buffer.set_stringn(area.x, area.y, heading, area.width.into(), theme.accent());
    let name = NAME.min(area.width / 2);
    let lines = area.y + 1..area.bottom();
    for (y, (key, text)) in lines.zip(entries) {
        buffer.set_stringn(area.x, y, key, name.into(), theme.strong());
        buffer.set_stringn(area.x + name, y, text, (area.width - name).into(), theme.quiet());
    }
    (entries.len() as u16 + 1).min(area.height)
}
