//! Everything about one workload, in a pane below the table or instead of it.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Sparkline, SparklineBar, Widget};

use super::format::{self, UNKNOWN};
use super::label;
use super::shares;
use super::state::{History, TopState};
use super::theme::Theme;
use crate::snapshot::document::{NeighbourWait, WorkloadUsage};
use crate::snapshot::suggest;

/// Lines of text in the pane.
const TEXT: u16 = 12;

/// Divides the body into the table's part and the pane's. A low terminal shows only the pane.
pub fn split(body: Rect) -> (Rect, Rect) {
    const LEAST_TABLE: u16 = 6;
    let wanted = (body.height / 2).clamp(TEXT + 4, TEXT + 8);
    if body.height < wanted + LEAST_TABLE {
        return (Rect { height: 0, ..body }, body);
    }
    let table = body.height - wanted;
    (Rect { height: table, ..body }, Rect { y: body.y + table, height: wanted, ..body })
}

/// Draws the pane; `present` is false when the cgroup was removed and these are its final values.
pub fn draw(buffer: &mut Buffer, area: Rect, workload: &WorkloadUsage, present: bool, state: &TopState, theme: Theme) {
    let gone = match (present, state.past().is_some() && !workload.ended) {
        (true, _) => None,
        (false, true) => Some("was not there at that time; values of another "),
        (false, false) => Some("removed; final values "),
    };
    rule(buffer, Rect { height: 1, ..area }, workload, gone, theme);
    let lines = text(workload, usize::from(area.width).saturating_sub(11), theme);
    let mut y = area.y + 1;
    for line in lines {
        if y >= area.bottom() {
            return;
        }
        line.render(Rect { y, height: 1, ..area }, buffer);
        y += 1;
    }
    if let (Some(history), true) = (state.history(workload), y + 2 < area.bottom()) {
        let graph = Rect { y: y + 1, height: area.bottom() - y - 1, ..area };
        bars(buffer, graph, history, state.facts().interval, theme);
    }
}

/// The CPU of the last intervals, newest at the right edge, with a line that has its scale.
fn bars(buffer: &mut Buffer, area: Rect, history: &History, interval: Duration, theme: Theme) {
    let micro = |cores: f32| (f64::from(cores) * 1e6).round() as u64;
    let newest = history.iter().rev().take(area.width.into());
    let peak = newest.clone().flatten().copied().fold(0.1_f32, f32::max);
    let span = interval.as_secs_f64() * newest.len() as f64;
    let scale = format!("CPU of the last {}, up to {} cores", format::duration(Some(span)), format::cores(Some(peak.into())));
    buffer.set_stringn(area.x, area.y, scale, area.width.into(), theme.quiet());
    // The widget leaves out what is beyond its right edge, so the newest values are picked here.
    let mut bars: Vec<SparklineBar> = newest.map(|cores| SparklineBar::from(cores.map(micro))).collect();
    bars.resize_with(area.width.into(), || SparklineBar::from(None));
    bars.reverse();
    let area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    Sparkline::default().data(bars).max(micro(peak)).absent_value_symbol(" ").style(theme.graph()).render(area, buffer);
}

/// The pane's upper edge: its name in a thin line, with its kind or why these are no values of now.
fn rule(buffer: &mut Buffer, area: Rect, workload: &WorkloadUsage, gone: Option<&str>, theme: Theme) {
    let width = usize::from(area.width);
    buffer.set_stringn(area.x, area.y, "─".repeat(width), width, theme.quiet());
    let label = label::label(workload);
    let name = format!(" {} ", format::cut(&format::printable(&label), width.saturating_sub(6)));
    let at = area.x + u16::from(width > 8) * 2;
    let (x, _) = buffer.set_stringn(at, area.y, name, width.saturating_sub(2), theme.strong());
    let kind = gone.map_or_else(|| format!("{} ", workload.cgroup_kind), str::to_owned);
    let style = if gone.is_none() { theme.quiet() } else { theme.watch() };
    buffer.set_stringn(x, area.y, format::printable(&kind), (area.right() - x).into(), style);
}

fn text(workload: &WorkloadUsage, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let cpu = &workload.cpu;
    let plain = Style::new();
    let value = |text: String, style: Style| Span::styled(text, style);
    let quiet = |text: &str| Span::styled(text.to_owned(), theme.quiet());
    let line = |name: &str, rest: Vec<Span<'static>>| {
        let mut spans = vec![Span::styled(format!("{name:<11}"), theme.quiet())];
        spans.extend(rest);
        Line::from(spans)
    };
    let (of_request, of_limit) = (shares::request_share(workload), shares::limit_share(workload));
    let mut lines = vec![
        line("cgroup", vec![value(format::cut(&format::printable(&workload.cgroup), width).into_owned(), plain)]),
        line(
            "CPU now",
            vec![
                value(format!("{} cores", format::cores(cpu.usage_cores)), theme.strong()),
                quiet("   request "),
                value(format::cores(cpu.request_cores), plain),
                value(format!(" ({})", format::percent(of_request)), plain),
                quiet("   limit "),
                value(format::cores(cpu.limit_cores), plain),
                value(format!(" ({})", format::percent(of_limit)), theme.share(of_limit)),
            ],
        ),
        line(
            "burst",
            vec![
                quiet("p50 "),
                value(format::cores(cpu.burst_p50_cores), plain),
                quiet("   p99 "),
                value(format::cores(cpu.burst_p99_cores), plain),
                quiet("   cores per 100 ms"),
            ],
        ),
        line(
            "wait now",
            vec![
                value(format::time(cpu.wait_rate), plain),
                quiet(" per s   throttled "),
                value(format::time(cpu.throttled_rate), plain),
                quiet("   contention "),
                value(format::time(cpu.contention_rate), plain),
            ],
        ),
        line(
            "wait total",
            vec![
                value(format::duration(cpu.wait_seconds), plain),
                quiet("   throttled "),
                value(format::duration(cpu.throttled_seconds), plain),
                quiet("   contention "),
                value(format::duration(cpu.contention_seconds), plain),
            ],
        ),
        line("CPU time", vec![value(format::duration(Some(cpu.time_seconds)), plain)]),
    ];
    if !cpu.neighbours.is_empty() {
        let last = lines.len() - 1;
        let name = |wait: &NeighbourWait| format::cut(&format::printable(&wait.name), 40).into_owned();
        let of = |wait: &NeighbourWait| {
            [value(format::duration(Some(wait.seconds)), plain), quiet(&format!(" for {}   ", name(wait)))]
        };
        lines.insert(last, line("waited", cpu.neighbours.iter().flat_map(of).collect()));
    }
    let pair = |name: &str, text: String| [quiet(name), value(text, plain)];
    let suggested_bytes = workload.memory.as_ref().and_then(|m| m.suggested_request_bytes);
    if cpu.suggested_request_cores.is_some() || suggested_bytes.is_some() {
        let mut spans = vec![value(format::cores(cpu.suggested_request_cores), theme.strong()), quiet(" cores and ")];
        spans.push(value(format::bytes(suggested_bytes), theme.strong()));
        spans.extend(pair(" to request, after ", format::duration(workload.watched_seconds)));
        // Beside what is requested now.
        lines.insert(2, line("suggested", spans));
    } else if let Some(watched) = workload.watched_seconds.filter(|_| !suggest::is_enough(workload.watched_seconds)) {
        let text = format!("available after {:.0} s of watching; {watched:.0} s so far", suggest::LEAST_SECONDS);
        lines.insert(2, line("suggested", vec![quiet(&text)]));
    }
    if let Some(memory) = &workload.memory {
        let shares = (shares::memory_request_share(workload), shares::memory_limit_share(workload));
        let mut spans = vec![value(format::bytes(memory.usage_bytes), theme.strong())];
        spans.extend(pair("   working set ", format::bytes(memory.working_set_bytes)));
        spans.extend(pair("   unrecl ", format::bytes(memory.unreclaimable_bytes)));
        spans.extend(pair("   peak ", format::bytes(memory.peak_bytes)));
        lines.push(line("memory", spans));
        let mut spans = Vec::new();
        spans.extend(pair("request ", format::bytes(memory.request_bytes)));
        spans.push(value(format!(" ({})", format::percent(shares.0)), plain));
        spans.extend(pair("   limit ", format::bytes(memory.limit_bytes)));
        spans.push(value(format!(" ({})", format::percent(shares.1)), theme.share(shares.1)));
        spans.extend(pair("   killed ", format::count(memory.oom_kills.map(|n| n as f64))));
        lines.push(line("", spans));
    }
    if let Some(network) = &workload.network {
        let mut spans = Vec::new();
        spans.extend(pair("rx ", format!("{}/s", format::short_bytes(network.receive_rate))));
        spans.extend(pair("   tx ", format!("{}/s", format::short_bytes(network.transmit_rate))));
        spans.extend(pair("   in total ", format::bytes(network.receive_bytes)));
        spans.extend(pair(" and ", format::bytes(network.transmit_bytes)));
        spans.extend(pair("   drops ", format::count(network.drops.map(|n| n as f64))));
        lines.push(line("network", spans));
    }
    if let Some(tcp) = &workload.tcp {
        let mut spans = Vec::new();
        spans.extend(pair("retransmits ", format::percent(tcp.retransmit_ratio)));
        spans.extend(pair("   round trip p50 ", format::time(tcp.rtt_p50_seconds)));
        spans.extend(pair(" p99 ", format::time(tcp.rtt_p99_seconds)));
        spans.extend(pair(" of ", format::count(tcp.rtt_count.map(|n| n as f64))));
        spans.extend(pair("   failed connects ", format::count(tcp.connect_failures.map(|n| n as f64))));
        lines.push(line("TCP", spans));
        let mut spans = Vec::new();
        spans.extend(pair("open ", format::count(tcp.connections.map(|n| n as f64))));
        spans.extend(pair("   timeouts ", format::count(tcp.timeouts.map(|n| n as f64))));
        spans.extend(pair("   window full ", format::time(tcp.window_limited_seconds)));
        spans.extend(pair("   accept p99 ", format::time(tcp.accept_p99_seconds)));
        spans.extend(pair("   unacknowledged ", format::bytes(tcp.unacknowledged_bytes)));
        lines.push(line("", spans));
    }
    if let Some(dns) = &workload.dns {
        let mut spans = Vec::new();
        spans.extend(pair("", format!("{}/s", format::count(dns.query_rate))));
        spans.extend(pair("   of the last ", format::count(Some(dns.window_lookups as f64))));
        spans.extend(pair(" failed ", format::percent(dns.failure_ratio)));
        spans.extend(pair("   NXDOMAIN ", format::percent(dns.no_such_name_ratio)));
        spans.extend(pair("   p50 ", format::time(dns.p50_seconds)));
        spans.extend(pair(" p99 ", format::time(dns.p99_seconds)));
        spans.extend(pair("   timeouts ", format::count(Some(dns.timeouts as f64))));
        lines.push(line("DNS", spans));
    }
    if let Some(disk) = &workload.disk {
        let mut spans = Vec::new();
        spans.extend(pair("read ", format!("{}/s", format::short_bytes(disk.read_rate))));
        spans.extend(pair("   write ", format!("{}/s", format::short_bytes(disk.write_rate))));
        spans.extend(pair("   p99 ", format::time(disk.p99_seconds)));
        spans.extend(pair("   fsync p99 ", format::time(disk.fsync_p99_seconds)));
        spans.extend(pair(" of ", format::count(disk.fsync_count.map(|n| n as f64))));
        spans.extend(pair("   held back ", format::count(disk.throttled.map(|n| n as f64))));
        lines.push(line("disk", spans));
    }
    if workload.pod.is_some() {
        let or_unknown = |text: &Option<String>| text.as_deref().map_or(UNKNOWN.into(), |t| format::printable(t).into_owned());
        lines.push(line(
            "container",
            vec![
                value(or_unknown(&workload.container), plain),
                quiet(&format!("   of {} ", format::printable(&workload.kind))),
                value(format::printable(&workload.name).into_owned(), plain),
            ],
        ));
    }
    lines
}
