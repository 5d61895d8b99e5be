//! The pages of the table: the same rows, each page with other columns.

use super::columns::Column;
use super::order::Sort;

/// What the table is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TablePage {
    /// CPU time, bursts, waiting.
    #[default]
    Cpu,
    /// Memory and kills.
    Memory,
    /// Packets, TCP, DNS.
    Network,
}

impl TablePage {
    /// In the order in which one leads to the next.
    pub const ALL: [TablePage; 3] = [TablePage::Cpu, TablePage::Memory, TablePage::Network];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            TablePage::Cpu => "cpu",
            TablePage::Memory => "memory",
            TablePage::Network => "network",
        }
    }

    /// The page after it.
    pub fn next(self) -> TablePage {
        match self {
            TablePage::Cpu => TablePage::Memory,
            TablePage::Memory => TablePage::Network,
            TablePage::Network => TablePage::Cpu,
        }
    }

    /// What its rows are ordered by at first.
    pub fn sort(self) -> Sort {
        match self {
            TablePage::Cpu => Sort::Cpu,
            TablePage::Memory => Sort::Memory,
            TablePage::Network => Sort::Traffic,
        }
    }

    /// The page that shows what rows are ordered by; `None` for the name, which all show.
    pub fn of(sort: Sort) -> Option<TablePage> {
        let column = Column::of(sort)?;
        TablePage::ALL.into_iter().find(|page| page.columns().contains(&column))
    }

    /// Everything beside the name, from left to right.
    pub fn columns(self) -> &'static [Column] {
        use Column as C;
        match self {
            TablePage::Cpu => &[
                C::Kind,
                C::Cpu,
                C::History,
                C::Request,
                C::RequestShare,
                C::Suggested,
                C::Limit,
                C::LimitShare,
                C::BurstP50,
                C::BurstP99,
                C::Wait,
                C::Throttled,
                C::Contention,
                C::Time,
            ],
            TablePage::Memory => &[
                C::Kind,
                C::Memory,
                C::WorkingSet,
                C::Unreclaimable,
                C::Peak,
                C::MemoryRequest,
                C::MemoryRequestShare,
                C::MemorySuggested,
                C::MemoryLimit,
                C::MemoryLimitShare,
                C::OomKills,
            ],
            TablePage::Network => &[
                C::Kind,
                C::Receive,
                C::Transmit,
                C::Drops,
                C::Retransmits,
                C::RttP50,
                C::RttP99,
                C::ConnectFailures,
                C::DnsQueries,
                C::DnsLookups,
                C::DnsFailures,
                C::DnsNoSuchName,
                C::DnsP50,
                C::DnsP99,
            ],
        }
    }

    /// The same, from the one that is kept longest where room is scarce.
    pub fn by_importance(self) -> &'static [Column] {
        use Column as C;
        match self {
            TablePage::Cpu => &[
                C::Cpu,
                C::RequestShare,
                C::BurstP99,
                C::Throttled,
                C::Contention,
                C::LimitShare,
                C::Kind,
                C::History,
                C::Time,
                C::Request,
                C::Suggested,
                C::Limit,
                C::BurstP50,
                C::Wait,
            ],
            TablePage::Memory => &[
                C::WorkingSet,
                C::MemoryLimitShare,
                C::OomKills,
                C::Unreclaimable,
                C::MemoryRequestShare,
                C::MemoryLimit,
                C::Kind,
                C::MemoryRequest,
                C::MemorySuggested,
                C::Memory,
                C::Peak,
            ],
            TablePage::Network => &[
                C::Receive,
                C::Transmit,
                C::Retransmits,
                C::DnsP99,
                C::DnsFailures,
                C::RttP99,
                C::Drops,
                C::DnsQueries,
                C::Kind,
                C::ConnectFailures,
                C::RttP50,
                C::DnsP50,
                C::DnsNoSuchName,
                C::DnsLookups,
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_keeps_all_its_columns_and_each_order_has_its_page() {
        for page in TablePage::ALL {
            assert_eq!(page.columns().len(), page.by_importance().len(), "{}", page.name());
            assert!(page.columns().iter().all(|column| page.by_importance().contains(column)), "{}", page.name());
            assert_eq!(TablePage::of(page.sort()), Some(page));
        }
        assert_eq!((TablePage::of(Sort::Name), TablePage::of(Sort::Dns)), (None, Some(TablePage::Network)));
        assert_eq!(TablePage::Cpu.next().next().next(), TablePage::Cpu);
    }
}
