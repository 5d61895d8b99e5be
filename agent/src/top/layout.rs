//! Which columns of a page fit the terminal, and how wide the name may be (pure).

use super::columns::{Column, GAP};
use super::order::Sort;
use super::pages::TablePage;

/// Which columns fit, and how wide the name may be.
#[derive(Debug, PartialEq, Eq)]
pub struct ColumnLayout {
    /// Columns for the name.
    pub name: usize,
    /// The others with their widths, from left to right.
    pub columns: Vec<(Column, usize)>,
}

/// Lays the table out in `width` columns, for names of up to `longest`: the most important columns beside a name that can still
/// be recognised, the one that orders the rows always among them.
pub fn layout(width: usize, longest: usize, page: TablePage, sort: Sort) -> ColumnLayout {
    let least = (width * 3 / 10).clamp(12, 36).min(longest.max(4));
    let ordering = Column::of(sort);
    let important = page.by_importance().iter().copied();
    let wanted = important.clone().take(1).chain(ordering).chain(important);
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
    let columns = page
        .columns()
        .iter()
        .copied()
        .filter(|column| kept.contains(column))
        .map(|column| (column, column.width() + if column == Column::History { spare } else { 0 }))
        .collect();
    ColumnLayout { name, columns }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(width: usize, page: TablePage, sort: Sort) -> Vec<Column> {
        layout(width, 40, page, sort).columns.into_iter().map(|(column, _)| column).collect()
    }

    #[test]
    fn a_wide_terminal_has_every_column_in_order() {
        for page in TablePage::ALL {
            assert_eq!(kept(200, page, page.sort()), page.columns());
            assert_eq!(layout(200, 40, page, page.sort()).name, 40);
        }
    }

    #[test]
    fn forty_columns_keep_what_matters_most() {
        assert_eq!(kept(40, TablePage::Cpu, Sort::Cpu), [Column::Cpu, Column::RequestShare, Column::BurstP99]);
        assert_eq!(kept(40, TablePage::Memory, Sort::Memory), [Column::WorkingSet, Column::MemoryLimitShare, Column::OomKills]);
    }

    #[test]
    fn the_column_that_orders_the_rows_is_kept() {
        assert!(!kept(60, TablePage::Cpu, Sort::Cpu).contains(&Column::Wait));
        assert!(kept(60, TablePage::Cpu, Sort::Wait).contains(&Column::Wait));
        assert!(kept(40, TablePage::Cpu, Sort::Time).contains(&Column::Time));
        assert!(kept(40, TablePage::Network, Sort::Dns).contains(&Column::DnsP99));
    }

    #[test]
    fn a_wider_terminal_never_shows_fewer_columns_and_nothing_overlaps() {
        for page in TablePage::ALL {
            let mut before = 0;
            for width in 0..250 {
                let layout = layout(width, 40, page, page.sort());
                assert!(layout.columns.len() >= before, "{width}");
                before = layout.columns.len();
                let used = layout.name + layout.columns.iter().map(|(_, w)| w + GAP).sum::<usize>();
                assert!(used <= width, "{used} of {width}");
            }
        }
    }
}
