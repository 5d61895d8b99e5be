//! The table's columns: what each shows, how wide it is, and which of them a narrow terminal keeps.

use ratatui::style::Style;

use super::figures;
use super::format;
use super::order::Sort;
use super::theme::Theme;
use super::view::Workload;

/// Columns between two columns of the table.
pub const GAP: usize = 2;

/// Everything beside the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Kind of workload.
    Kind,
    /// CPUs now.
    Cpu,
    /// CPUs of the last intervals.
    History,
    /// CPUs requested.
    Request,
    /// CPU as a share of the request.
    RequestShare,
    /// CPUs allowed.
    Limit,
    /// CPU as a share of the limit.
    LimitShare,
    /// Median of CPUs per 100 ms.
    BurstP50,
    /// 99th percentile of CPUs per 100 ms.
    BurstP99,
    /// Waiting, whatever the cause.
    Wait,
    /// Waiting because of the own limit.
    Throttled,
    /// Waiting because others had the CPU.
    Contention,
    /// CPU time in total.
    Time,
}

/// From left to right.
const IN_ORDER: [Column; 13] = [
    Column::Kind,
    Column::Cpu,
    Column::History,
    Column::Request,
    Column::RequestShare,
    Column::Limit,
    Column::LimitShare,
    Column::BurstP50,
    Column::BurstP99,
    Column::Wait,
    Column::Throttled,
    Column::Contention,
    Column::Time,
];

/// From the one that is kept longest.
const BY_IMPORTANCE: [Column; 13] = [
    Column::Cpu,
    Column::RequestShare,
    Column::BurstP99,
    Column::Throttled,
    Column::Contention,
    Column::LimitShare,
    Column::History,
    Column::Time,
    Column::Request,
    Column::Limit,
    Column::BurstP50,
    Column::Kind,
    Column::Wait,
];

impl Column {
    /// Columns of the terminal that it takes: its heading or its widest value.
    pub fn width(self) -> usize {
        match self {
            Column::Kind => 11,
            Column::History => 12,
            Column::Throttled => 9,
            Column::Contention => 10,
            Column::Time => 8,
            // As wide as the group's name, where it is the only one of its group.
            Column::RequestShare | Column::LimitShare => 7,
            _ => 6,
        }
    }

    /// What it has in common with its neighbours: the upper line of a heading of two lines.
    pub fn group(self) -> &'static str {
        match self {
            Column::Request | Column::RequestShare => "request",
            Column::Limit | Column::LimitShare => "limit",
            Column::BurstP50 | Column::BurstP99 => "burst",
            Column::Wait | Column::Throttled | Column::Contention => "wait",
            Column::Cpu | Column::History | Column::Time | Column::Kind => "",
        }
    }

    /// The heading below [`Column::group`].
    pub fn label(self) -> &'static str {
        match self {
            Column::Kind => "KIND",
            Column::Cpu => "CPU",
            Column::History => "",
            Column::Request | Column::Limit => "CORES",
            Column::RequestShare | Column::LimitShare => "USED",
            Column::BurstP50 => "P50",
            Column::BurstP99 => "P99",
            Column::Wait => "ALL",
            Column::Throttled => "THROTTLED",
            Column::Contention => "CONTENTION",
            Column::Time => "CPU TIME",
        }
    }

    /// The heading where there is no line for the group.
    pub fn lone_label(self) -> &'static str {
        match self {
            Column::Request => "REQ",
            Column::RequestShare => "REQ%",
            Column::Limit => "LIM",
            Column::LimitShare => "LIM%",
            Column::Wait => "WAIT",
            other => other.label(),
        }
    }

    /// The column that shows what the rows are ordered by; `None` for the name.
    pub fn of(sort: Sort) -> Option<Column> {
        Some(match sort {
            Sort::Cpu => Column::Cpu,
            Sort::Burst => Column::BurstP99,
            Sort::Wait => Column::Wait,
            Sort::Throttled => Column::Throttled,
            Sort::Request => Column::RequestShare,
            Sort::Time => Column::Time,
            Sort::Name => return None,
        })
    }

    /// True when its text begins at its left edge.
    pub fn is_left(self) -> bool {
        matches!(self, Column::Kind | Column::History)
    }

    /// Its value and how that looks. The history is drawn by the caller, who has it.
    pub fn cell(self, workload: &Workload, theme: Theme) -> (String, Style) {
        let cpu = &workload.cpu;
        let plain = Style::new();
        let (text, style) = match self {
            Column::Kind if workload.ended => ("ended".into(), theme.quiet()),
            Column::Kind => (format::cut(&format::printable(&workload.kind), self.width()).into_owned(), theme.quiet()),
            Column::Cpu => (format::cores(cpu.usage_cores), faint_below(cpu.usage_cores, 0.001, theme)),
            Column::History => (String::new(), theme.graph()),
            Column::Request => (format::cores(cpu.request_cores), theme.quiet()),
            Column::RequestShare => share(figures::request_share(workload), theme),
            Column::Limit => (format::cores(cpu.limit_cores), theme.quiet()),
            Column::LimitShare => share(figures::limit_share(workload), theme),
            Column::BurstP50 => (format::cores(cpu.burst_p50_cores), faint_below(cpu.burst_p50_cores, 0.001, theme)),
            Column::BurstP99 => (format::cores(cpu.burst_p99_cores), burst(workload, theme)),
            Column::Wait => (format::rate(cpu.wait_rate), waiting(cpu.wait_rate, theme)),
            Column::Throttled => (format::rate(cpu.throttled_rate), waiting(cpu.throttled_rate, theme)),
            Column::Contention => {
                let rate = figures::contention_rate(workload);
                (format::rate(rate), waiting(rate, theme))
            }
            Column::Time => (format::duration(Some(cpu.time_seconds)), plain),
        };
        let style = if text == format::UNKNOWN || workload.ended { theme.quiet() } else { style };
        (text, style)
    }
}

fn share(ratio: Option<f64>, theme: Theme) -> (String, Style) {
    (format::percent(ratio), theme.share(ratio))
}

/// A burst above what the limit allows over time is what gets throttled.
fn burst(workload: &Workload, theme: Theme) -> Style {
    match (workload.cpu.burst_p99_cores, workload.cpu.limit_cores) {
        (Some(burst), Some(limit)) if limit > 0.0 && burst >= limit => theme.watch(),
        (burst, _) => faint_below(burst, 0.001, theme),
    }
}

/// Waiting for a tenth of the time is worth a look; for a whole CPU's worth, an alarm.
fn waiting(rate: Option<f64>, theme: Theme) -> Style {
    match rate {
        Some(r) if r >= 1.0 => theme.alarm(),
        Some(r) if r >= 0.1 => theme.watch(),
        _ => faint_below(rate, 0.001, theme),
    }
}

fn faint_below(value: Option<f64>, bound: f64, theme: Theme) -> Style {
    if value.is_some_and(|v| v >= bound) { Style::new() } else { theme.quiet() }
}

/// Which columns fit, and how wide the name may be.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// Columns for the name.
    pub name: usize,
    /// The others with their widths, from left to right.
    pub columns: Vec<(Column, usize)>,
}

/// Lays the table out in `width` columns, for names of up to `longest`: the most important columns beside a name that can still
/// be recognised, the one that orders the rows always among them.
pub fn layout(width: usize, longest: usize, sort: Sort) -> Layout {
    let least = (width * 3 / 10).clamp(12, 36).min(longest.max(4));
    let ordering = Column::of(sort);
    let wanted = [Column::Cpu].into_iter().chain(ordering).chain(BY_IMPORTANCE);
    let mut kept: Vec<Column> = Vec::new();
    let mut free = width.saturating_sub(least);
    for column in wanted {
        if kept.contains(&column) {
            continue;
        }
        let Some(rest) = free.checked_sub(column.width() + GAP) else { break };
        kept.push(column);
        free = rest;
    }
    let name = (least + free).min(longest.max(4)).min(width);
    // What the longest name does not need makes the history longer.
    let spare = (least + free).saturating_sub(name).min(24);
    let columns = IN_ORDER
        .into_iter()
        .filter(|column| kept.contains(column))
        .map(|column| (column, column.width() + if column == Column::History { spare } else { 0 }))
        .collect();
    Layout { name, columns }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(width: usize, sort: Sort) -> Vec<Column> {
        layout(width, 40, sort).columns.into_iter().map(|(column, _)| column).collect()
    }

    #[test]
    fn a_wide_terminal_has_every_column_in_order() {
        assert_eq!(kept(200, Sort::Cpu), IN_ORDER);
        assert_eq!(layout(200, 40, Sort::Cpu).name, 40);
    }

    #[test]
    fn forty_columns_keep_what_matters_most() {
        assert_eq!(kept(40, Sort::Cpu), [Column::Cpu, Column::RequestShare, Column::BurstP99]);
    }

    #[test]
    fn the_column_that_orders_the_rows_is_kept() {
        assert!(!kept(60, Sort::Cpu).contains(&Column::Wait));
        assert!(kept(60, Sort::Wait).contains(&Column::Wait));
        assert!(kept(40, Sort::Time).contains(&Column::Time));
    }

    #[test]
    fn a_wider_terminal_never_shows_fewer_columns_and_nothing_overlaps() {
        let mut before = 0;
        for width in 0..250 {
            let layout = layout(width, 40, Sort::Cpu);
            assert!(layout.columns.len() >= before, "{width}");
            before = layout.columns.len();
            let used = layout.name + layout.columns.iter().map(|(_, w)| w + GAP).sum::<usize>();
            assert!(used <= width, "{used} of {width}");
        }
    }
}
