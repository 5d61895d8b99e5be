//! Command line options of `podmeter top` about its rows.

use clap::Args;

use super::order::Sort;
use super::tree::{RowChoice, RowLayout};

/// Which rows are shown, and in which order.
#[derive(Args, Clone, Debug, Default)]
pub struct TopOptions {
    /// Order the rows by this; largest first, names from A to Z. In JSON the default is the cgroup's path.
    #[arg(long, value_enum, value_name = "COLUMN")]
    pub sort: Option<Sort>,
    /// Show only rows with these words in their name, kind or cgroup.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Show at most N rows.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// How the rows are laid out. JSON always has every cgroup.
    #[arg(long, value_enum, value_name = "LAYOUT", default_value = "tree")]
    pub view: RowLayout,
}

impl TopOptions {
    /// The same as a choice of rows.
    pub fn choice(&self) -> RowChoice {
        RowChoice {
            sort: self.sort.unwrap_or(Sort::Cpu),
            filter: self.filter.clone().unwrap_or_default(),
            limit: self.limit.map(|limit| limit as usize),
            ..RowChoice::default()
        }
    }
}
