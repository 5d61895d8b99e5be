//! The pages of the table: the same rows, each page with other columns.

use super::columns::Column;
use super::order::Sort;

/// What the table is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// CPU time, bursts, waiting.
    #[default]
    Cpu,
    /// Memory and kills.
    Memory,
    /// Packets, TCP, DNS.
    Network,
}

impl Page {
    /// In the order in which one leads to the next.
    pub const ALL: [Page; 3] = [Page::Cpu, Page::Memory, Page::Network];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Page::Cpu => "cpu",
            Page::Memory => "memory",
            Page::Network => "network",
        }
    }

    /// The page after it.
    pub fn next(self) -> Page {
        match self {
            Page::Cpu => Page::Memory,
            Page::Memory => Page::Network,
            Page::Network => Page::Cpu,
        }
    }

    /// What its rows are ordered by at first.
    pub fn sort(self) -> Sort {
        match self {
            Page::Cpu => Sort::Cpu,
            Page::Memory => Sort::Memory,
            Page::Network => Sort::Traffic,
        }
    }

    /// The page that shows what rows are ordered by; `None` for the name, which all show.
    pub fn of(sort: Sort) -> Option<Page> {
        let column = Column::of(sort)?;
        Page::ALL.into_iter().find(|page| page.columns().contains(&column))
    }

    /// Everything beside the name, from left to right.
    pub fn columns(self) -> &'static [Column] {
        use Column as C;
        match self {
            Page::Cpu => &[
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
            Page::Memory => &[
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
            Page::Network => &[
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
            Page::Cpu => &[
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
            Page::Memory => &[
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
            Page::Network => &[
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
        for page in Page::ALL {
            assert_eq!(page.columns().len(), page.by_importance().len(), "{}", page.name());
            assert!(page.columns().iter().all(|column| page.by_importance().contains(column)), "{}", page.name());
            assert_eq!(Page::of(page.sort()), Some(page));
        }
        assert_eq!((Page::of(Sort::Name), Page::of(Sort::Dns)), (None, Some(Page::Network)));
        assert_eq!(Page::Cpu.next().next().next(), Page::Cpu);
    }
}
