//! TopState -> the picture, for whatever size the terminal has.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use super::columns::{Column, GAP};
use super::format;
use super::layout::{ColumnLayout, layout};
use super::order::Sort;
use super::pages::TablePage;
use super::past::Place;
use super::state::{History, TopState};
use super::theme::{Theme, WATCH};
use super::{detail, status, terminal, text_page};
use crate::snapshot::document::Snapshot;

/// Draws one frame.
pub fn draw(frame: &mut Frame, state: &mut TopState, theme: Theme) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    if area.is_empty() {
        return;
    }
    let inset = if area.width >= 60 { 2 } else { 0 };
    let of_past = state.past().map(|past| past.place().map(|place| (place.line(), place.left_out.is_some())));
    let of_now = || state.snapshot().and_then(|snapshot| status::line(snapshot, usize::from(area.width - inset)));
    let status = of_past.unwrap_or_else(of_now);
    let bands = Bands::of(area, status.is_some());
    if let Some(line) = bands.title {
        title(buffer, line, state, theme);
    }
    if let Some(line) = bands.node {
        node(buffer, line, state, theme);
    }
    if let Some(line) = bands.memory {
        memory(buffer, line, state, theme);
    }
    if let (Some(line), Some((text, is_off))) = (bands.status, status) {
        let style = if is_off { theme.watch() } else { theme.quiet() };
        buffer.set_stringn(line.x, line.y, text, line.width.into(), style);
    }
    if let Some(line) = bands.footer {
        footer(buffer, line, state, theme);
    }
    if let Some(open) = state.text_page() {
        text_page::draw(buffer, bands.body, open, state, theme);
    } else {
        let (list, pane) = if state.shows_detail() { detail::split(bands.body) } else { (bands.body, Rect::ZERO) };
        table(buffer, list, state, theme);
        if let (false, Some((workload, present))) = (pane.is_empty(), state.inspected()) {
            detail::draw(buffer, pane, workload, present, state, theme);
        }
    }
    if !theme.unicode() {
        terminal::picture_to_ascii(buffer);
    }
}

/// From this width on, the title has the time watched.
const WATCHED: u16 = 110;

/// Where things are on the screen. A low screen gives its last lines to the rows.
struct Bands {
    title: Option<Rect>,
    node: Option<Rect>,
    body: Rect,
    footer: Option<Rect>,
    memory: Option<Rect>,
    status: Option<Rect>,
}

impl Bands {
    fn of(area: Rect, has_status: bool) -> Self {
        let inset = if area.width >= 60 { 1 } else { 0 };
        let area = Rect { x: area.x + inset, width: area.width - 2 * inset, ..area };
        let height = area.height;
        let mut above = 0;
        let mut next = |wanted: bool| {
            above += u16::from(wanted);
            wanted.then(|| Rect { y: area.y + above - 1, height: 1, ..area })
        };
        let title = next(height >= 6);
        let node = next(height >= 4);
        let memory = next(height >= 10);
        let status = next(has_status && height >= 8);
        next(height >= 16);
        let footer = (height >= 5).then(|| Rect { y: area.y + height - 1, height: 1, ..area });
        let body = Rect { y: area.y + above, height: height - above - u16::from(footer.is_some()), ..area };
        Self { title, node, memory, status, body, footer }
    }
}

fn title(buffer: &mut Buffer, area: Rect, state: &TopState, theme: Theme) {
    let facts = state.facts();
    let name = state.snapshot().map_or("", |snapshot| snapshot.node.name.as_str());
    let mut left = vec![Span::styled("podmeter", theme.accent())];
    if let Some(past) = state.past() {
        let time = past.place().map(Place::time).unwrap_or_default();
        left.push(Span::styled(format!("  REPLAY {time}"), theme.watch()));
    }
    // The kernel and the agent of a replay may be others than those of now.
    let [kernel, agent] = if state.past().is_some() { [""; 2] } else { [facts.kernel.as_str(), &facts.agent] };
    for (text, style) in [(name, theme.strong()), (kernel, theme.quiet()), (agent, theme.quiet())] {
        if !text.is_empty() {
            left.push(Span::styled("  ", theme.quiet()));
            left.push(Span::styled(format::printable(text).into_owned(), style));
        }
    }
    let (shown, all) = (state.row_count(), state.all_count());
    let rows = if all == 1 { "row" } else { "rows" };
    let count = if shown == all { format!("{all} {rows}") } else { format!("{shown} of {all} {rows}") };
    let mut right = vec![Span::styled(count, theme.quiet())];
    // Only where there is room for suggested requests, which are based on it.
    if let Some(watched) = state.snapshot().and_then(Snapshot::watched_seconds).filter(|_| area.width >= WATCHED) {
        right.push(Span::styled(format!("  watched for {}", format::duration(Some(watched))), theme.quiet()));
    }
    if state.is_paused() {
        right.push(Span::styled("  PAUSED", theme.watch()));
    } else if state.past().is_none() {
        right.push(Span::styled(format!("  every {:?}", facts.interval), theme.quiet()));
    }
    two_sides(buffer, area, Line::from(left), Line::from(right));
}

/// Columns from which on the header has the load and the fullest file system too.
const ROOMY: usize = 100;

fn node(buffer: &mut Buffer, area: Rect, state: &TopState, theme: Theme) {
    if let Some(error) = state.error() {
        let what = match state.past() {
            Some(_) => "could not read the journal; this is what was shown before",
            None => "could not read the kernel, retrying; these values are old",
        };
        let text = format!("{what}: {}", format::printable(error));
        buffer.set_stringn(area.x, area.y, text, area.width.into(), theme.alarm());
        return;
    }
    let Some(snapshot) = state.snapshot() else {
        buffer.set_stringn(
            area.x,
            area.y,
            if state.past().is_some() { "reading the journal ..." } else { "measuring the first interval ..." },
            area.width.into(),
            theme.quiet(),
        );
        return;
    };
    let cpu = &snapshot.node.cpu;
    let capacity = Some(cpu.capacity_cores).filter(|c| *c > 0.0);
    let ratio = cpu.usage_cores.zip(capacity).map(|(used, of)| used / of);
    let width = usize::from(area.width);
    let mut spans = bar("CPU  ", ratio, width, theme);
    spans.push(Span::styled(format::cores(cpu.usage_cores), theme.strong()));
    spans.push(Span::raw(format!(" of {} cores", capacity.map_or(format::UNKNOWN.into(), format::whole_cores))));
    spans.push(Span::styled(format!("  {}", format::percent(ratio)), theme.share(ratio)));
    if cpu.unattributed_seconds > 0.0 {
        spans.push(Span::styled(format!("  {} unattributed", format::duration(Some(cpu.unattributed_seconds))), theme.watch()));
    }
    if let Some(load) = snapshot.node.load.filter(|_| width >= ROOMY) {
        spans.push(Span::styled(format!("  load {load:.2}"), theme.quiet()));
    }
    let line = Line::from(spans);
    let free = width.saturating_sub(line.width() + 2);
    let graph = free.min(60);
    let history =
        if graph >= 8 { sparkline(state.node_history(), graph, cpu.capacity_cores as f32 / 8.0) } else { String::new() };
    two_sides(buffer, area, line, Line::from(Span::styled(history, theme.graph())));
}

/// A name and a bar that is filled so far, where there is room for one.
fn bar(name: &'static str, ratio: Option<f64>, width: usize, theme: Theme) -> Vec<Span<'static>> {
    let mut spans = vec![Span::styled(name, theme.strong())];
    if width >= 50 {
        let columns = (width / 4).clamp(10, 40);
        let filled = (ratio.unwrap_or(0.0).clamp(0.0, 1.0) * columns as f64).round() as usize;
        let style = if ratio.is_some_and(|r| r >= WATCH) { theme.share(ratio) } else { theme.graph() };
        spans.push(Span::styled("━".repeat(filled), style));
        spans.push(Span::styled("─".repeat(columns - filled), theme.quiet()));
        spans.push(Span::raw("  "));
    }
    spans
}

/// The node's memory, its fullest file system and its traffic.
fn memory(buffer: &mut Buffer, area: Rect, state: &TopState, theme: Theme) {
    let Some(node) = state.snapshot().map(|snapshot| &snapshot.node) else { return };
    let width = usize::from(area.width);
    let as_f64 = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
    let memory = node.memory.clone().unwrap_or_default();
    let capacity = as_f64(memory.capacity_bytes).filter(|bytes| *bytes > 0.0);
    let used = as_f64(memory.working_set_bytes.or(memory.usage_bytes));
    let ratio = used.zip(capacity).map(|(used, of)| used / of);
    let mut spans = bar("MEM  ", ratio, width, theme);
    spans.push(Span::styled(format::short_bytes(used), theme.strong()));
    spans.push(Span::raw(format!(" of {}", format::short_bytes(capacity))));
    spans.push(Span::styled(format!("  {}", format::percent(ratio)), theme.share(ratio)));
    let network = node.network.clone().unwrap_or_default();
    let rate = |rate| Span::styled(format!("{}/s", format::short_bytes(rate)), theme.strong());
    let quiet = |text: &'static str| Span::styled(text, theme.quiet());
    let mut right = Vec::new();
    if let Some(fullest) = node.file_systems.first().filter(|_| width >= ROOMY) {
        let ratio = Some(fullest.ratio());
        right.extend([Span::styled("DISK", theme.strong()), quiet("  ")]);
        right.push(Span::raw(format::printable(&fullest.mountpoint).into_owned()));
        right.extend([quiet(" "), Span::styled(format::percent(ratio), theme.share(ratio)), quiet("   ")]);
    }
    right.extend([
        Span::styled("NET", theme.strong()),
        quiet("  rx "),
        rate(network.receive_rate),
        quiet("  tx "),
        rate(network.transmit_rate),
    ]);
    two_sides(buffer, area, Line::from(spans), Line::from(right));
}

/// The bars of a history; noise below a tenth of a CPU stays low.
fn sparkline(history: &History, columns: usize, floor: f32) -> String {
    format::sparkline(history.iter().copied(), columns, floor)
}

fn table(buffer: &mut Buffer, area: Rect, state: &mut TopState, theme: Theme) {
    let heading = match area.height {
        0..=2 => 0,
        3..=8 => 1,
        _ => 2,
    };
    let (sort, reversed) = state.sort();
    let layout = layout(area.width.into(), state.longest_label(), state.shown(), sort);
    if heading > 0 {
        head(buffer, Rect { height: heading, ..area }, &layout, (sort, reversed), theme);
    }
    let rows = Rect { y: area.y + heading, height: area.height - heading, ..area };
    if state.row_count() == 0 && state.snapshot().is_some() {
        let why = match (state.filter().is_empty(), state.hides_idle()) {
            (false, _) => "no workload matches the filter (Esc clears it)",
            (true, true) => "no workload used CPU (i shows idle ones)",
            (true, false) => "no workloads",
        };
        buffer.set_stringn(rows.x, rows.y, why, rows.width.into(), theme.quiet());
        return;
    }
    let visible = state.visible(rows.height.into());
    for (y, row) in (rows.y..rows.bottom()).zip(visible) {
        let line = Rect { y, height: 1, ..rows };
        cells(buffer, line, row, &layout, state, theme);
        if state.selected_row() == Some(row) {
            buffer.set_style(line, theme.selected());
        }
    }
}

fn head(buffer: &mut Buffer, area: Rect, layout: &ColumnLayout, (sort, reversed): (Sort, bool), theme: Theme) {
    let last = area.bottom() - 1;
    let ordering = Column::of(sort);
    // Names go up, figures go down, unless reversed.
    let arrow = if (sort == Sort::Name) == reversed { "▾" } else { "▴" };
    let style = |column: Option<Column>| if column == ordering { theme.accent() } else { theme.quiet() };
    let name = if ordering.is_none() { format!("NAME{arrow}") } else { "NAME".into() };
    buffer.set_stringn(area.x, last, name, layout.name, style(None));
    let mut x = usize::from(area.x) + layout.name;
    let mut group = ("", 0);
    for &(column, width) in &layout.columns {
        x += GAP;
        let text = if area.height > 1 { column.label() } else { column.lone_label() };
        let text = if ordering == Some(column) { format!("{text}{arrow}") } else { text.to_owned() };
        // The arrow may stand in the gap, so that the label stays above its values.
        let over = format::width(&text).saturating_sub(width).min(GAP - 1);
        put(buffer, x - over, last, &text, width + over, column.is_left(), style(Some(column)));
        if area.height > 1 {
            if !column.group().is_empty() && column.group() != group.0 {
                group = (column.group(), x);
            }
            let ends = layout.columns.iter().rev().find(|(c, _)| c.group() == column.group()).is_some_and(|(c, _)| *c == column);
            if ends && column.group() == group.0 && !group.0.is_empty() {
                bracket(buffer, group.1, x + width, area.y, group.0, theme);
            }
        }
        x += width;
    }
}

/// A group's name above its columns, in the middle of a thin line: `── wait ──`.
fn bracket(buffer: &mut Buffer, from: usize, to: usize, y: u16, name: &str, theme: Theme) {
    let room = to - from;
    let text = if room >= name.len() + 4 { format!("{:─^room$}", format!(" {name} ")) } else { format!("{name:>room$}") };
    put(buffer, from, y, &text, room, false, theme.quiet());
}

fn cells(buffer: &mut Buffer, area: Rect, row: usize, layout: &ColumnLayout, state: &TopState, theme: Theme) {
    let Some((workload, label)) = state.row(row) else { return };
    let style = if workload.ended { theme.quiet() } else { Style::new() };
    buffer.set_stringn(area.x, area.y, format::cut(label, layout.name), layout.name, style);
    let mut x = usize::from(area.x) + layout.name;
    for &(column, width) in &layout.columns {
        x += GAP;
        let (mut text, mut style) = column.cell(workload, theme);
        if let (Column::History, Some(history)) = (column, state.history(workload)) {
            text = sparkline(history, width, 0.1);
            if text.chars().all(|bar| matches!(bar, ' ' | '▁')) {
                style = theme.quiet();
            }
        }
        put(buffer, x, area.y, &text, width, column.is_left(), style);
        x += width;
    }
}

/// Writes `text` at the left or right edge of the `width` columns from `x` on.
fn put(buffer: &mut Buffer, x: usize, y: u16, text: &str, width: usize, left: bool, style: Style) {
    let text = format::cut(text, width);
    let x = if left { x } else { x + width - format::width(&text) };
    if let Ok(x) = u16::try_from(x)
        && x < buffer.area.right()
    {
        buffer.set_stringn(x, y, text, width, style);
    }
}

/// `left` at the left edge and, where both fit, `right` at the right edge.
fn two_sides(buffer: &mut Buffer, area: Rect, left: Line, right: Line) {
    let (used, wanted) = (left.width(), right.width());
    (&left).render(area, buffer);
    if used + GAP + wanted <= usize::from(area.width) {
        let at = area.right() - wanted as u16;
        (&right).render(Rect { x: at, width: wanted as u16, ..area }, buffer);
    }
}

fn footer(buffer: &mut Buffer, area: Rect, state: &TopState, theme: Theme) {
    if state.is_editing() {
        let keys = "   Enter applies, Esc clears";
        let room = usize::from(area.width).saturating_sub(2);
        // The end of the text is shown.
        let filter = format::printable(state.filter()).into_owned();
        let mut shown = filter.as_str();
        while format::width(shown) > room {
            let mut rest = shown.chars();
            rest.next();
            shown = rest.as_str();
        }
        let line = vec![
            Span::styled("/", theme.accent()),
            Span::raw(shown.to_owned()),
            Span::styled("▏", theme.accent()),
            Span::styled(keys, theme.quiet()),
        ];
        Line::from(line).render(area, buffer);
        return;
    }
    let (sort, _) = state.sort();
    let by_figure: &[(Sort, &str, &str)] = match state.shown() {
        TablePage::Cpu => &[
            (Sort::Cpu, "c", "cpu"),
            (Sort::Burst, "b", "burst"),
            (Sort::Wait, "w", "wait"),
            (Sort::Throttled, "t", "throttled"),
            (Sort::Contention, "C", "contention"),
            (Sort::Request, "r", "request"),
            (Sort::Time, "T", "time"),
        ],
        TablePage::Memory => &[(Sort::Memory, "m", "memory"), (Sort::MemoryLimit, "l", "limit"), (Sort::OomKills, "o", "killed")],
        TablePage::Network => &[
            (Sort::Traffic, "x", "bytes"),
            (Sort::Drops, "D", "drops"),
            (Sort::Retransmits, "e", "retransmits"),
            (Sort::RoundTrip, "R", "round trip"),
            (Sort::Dns, "d", "dns"),
        ],
    };
    let orders = by_figure.iter().chain(&[(Sort::Name, "n", "name")]);
    let orders = orders.map(|(by, key, text)| (*key, (*text).to_owned(), *by == sort));
    let filter = if state.filter().is_empty() { "filter".into() } else { format!("\"{}\"", format::printable(state.filter())) };
    let steps = [("Left Right", "step"), ("[ ]", "minute"), ("{ }", "hour"), ("( )", "OOM kill")];
    let steps = steps.map(|(key, text)| (key, text.to_owned(), false)).into_iter().filter(|_| state.past().is_some());
    let others = [
        ("q", "quit".to_owned(), false),
        ("?", "help".to_owned(), false),
        ("Tab", state.shown().next().name().to_owned(), false),
        ("/", filter, !state.filter().is_empty()),
        ("v", state.shape().next().name().to_owned(), false),
        ("Enter", if state.shows_detail() { "close" } else { "details" }.to_owned(), state.shows_detail()),
        ("i", if state.hides_idle() { "show idle" } else { "hide idle" }.to_owned(), state.hides_idle()),
        ("p", if state.is_paused() { "continue" } else { "pause" }.to_owned(), state.is_paused()),
        ("s", "signals".to_owned(), false),
    ];
    let (others, orders): (Vec<_>, Vec<_>) = match state.text_page() {
        None => {
            // Nothing comes by itself in a replay.
            let others = others.into_iter().filter(|(key, ..)| *key != "p" || state.past().is_none());
            (steps.chain(others).collect(), orders.collect())
        }
        Some(_) => {
            let keys = [("Space", "more"), ("Up Down", "scroll"), ("Esc", "close")];
            (keys.map(|(key, text)| (key, text.to_owned(), false)).to_vec(), Vec::new())
        }
    };
    let mut x = area.x;
    for (key, text, active) in others.into_iter().chain(orders) {
        let width = format::width(key) + 1 + format::width(&text);
        if usize::from(area.right() - x) < width {
            break;
        }
        let style = if active { theme.accent() } else { theme.quiet() };
        (x, _) = buffer.set_stringn(x, area.y, key, width, theme.strong());
        (x, _) = buffer.set_stringn(x + 1, area.y, text, width, style);
        x = (x + GAP as u16).min(area.right());
    }
}
