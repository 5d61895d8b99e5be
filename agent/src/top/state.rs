//! What the live view knows between two frames: the last snapshot, the histories, and what the user chose to see of them.
//!
//! Pure: snapshots and actions go in, rows in order come out. Keys become actions in `keys`, rows become cells in `render`.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::figures;
use super::order::{Sort, compare, matches, value};
use super::pages::Page;
use super::view::{View, Workload};

/// Intervals that a history keeps: three minutes at the usual second.
const HISTORY: usize = 180;

/// What does not change while the view is open.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Operating system and release, `Linux 6.18.0`.
    pub kernel: String,
    /// Name and version of this program.
    pub agent: String,
    /// Time between two snapshots.
    pub interval: Duration,
}

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Order by this, on the page that shows it; again: the other way round.
    Sort(Sort),
    /// Show this page.
    Show(Page),
    /// Show the next page.
    NextPage,
    /// Select the row so many below (negative: above).
    Move(isize),
    /// Select the row so many pages below (negative: above).
    Page(isize),
    /// Select the first row.
    First,
    /// Select the last row.
    Last,
    /// Begin to type a filter.
    EditFilter,
    /// Add to the filter.
    Type(char),
    /// Take the last character from the filter.
    Erase,
    /// Empty the filter, go on typing.
    EraseAll,
    /// Keep the filter, stop typing.
    Accept,
    /// Leave what is open: the filter's line, the details, the filter, the selection.
    Back,
    /// Show or hide rows that used no CPU.
    ToggleIdle,
    /// Open or close the selected row's details.
    Detail,
    /// Open or close the help.
    Help,
    /// Hold the picture, or go on.
    Pause,
    /// End.
    Quit,
}

/// CPUs used per interval, oldest first; `None` where it was not known.
pub type History = VecDeque<Option<f32>>;

/// The live view's state.
#[derive(Debug)]
pub struct State {
    facts: Facts,
    view: Option<View>,
    /// The newest snapshot that came while paused.
    held: Option<View>,
    paused: bool,
    shown: Page,
    sort: Sort,
    reversed: bool,
    filter: String,
    editing: bool,
    hide_idle: bool,
    help: bool,
    detail: bool,
    quit: bool,
    error: Option<String>,
    /// By cgroup path.
    histories: HashMap<String, History>,
    node_history: History,
    /// Label of each workload of the snapshot.
    labels: Vec<String>,
    /// Columns of the longest label.
    longest: usize,
    /// Indices of the workloads that are shown, in order.
    rows: Vec<usize>,
    /// Position in `rows`.
    cursor: usize,
    /// The workload that the cursor follows: none until the user moves it.
    selected: Option<Workload>,
    /// First row on the screen, and how many fit.
    offset: usize,
    page: usize,
}

impl State {
    /// Nothing seen yet.
    pub fn new(facts: Facts) -> Self {
        Self {
            facts,
            view: None,
            held: None,
            paused: false,
            shown: Page::default(),
            sort: Sort::Cpu,
            reversed: false,
            filter: String::new(),
            editing: false,
            hide_idle: false,
            help: false,
            detail: false,
            quit: false,
            error: None,
            histories: HashMap::new(),
            node_history: History::new(),
            labels: Vec::new(),
            longest: 0,
            rows: Vec::new(),
            cursor: 0,
            selected: None,
            offset: 0,
            page: 1,
        }
    }

    /// Takes a new snapshot; while paused it is held back.
    pub fn update(&mut self, view: View) {
        self.error = None;
        if self.paused && self.view.is_some() {
            self.held = Some(view);
            return;
        }
        self.remember(&view);
        self.labels = view.workloads.iter().map(|w| super::format::printable(&figures::label(w)).into_owned()).collect();
        self.longest = self.labels.iter().map(|label| super::format::width(label)).max().unwrap_or(0);
        self.view = Some(view);
        self.arrange();
    }

    /// Says that a snapshot could not be read. The last one stays on the screen.
    pub fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    /// Does what the user asks for.
    pub fn apply(&mut self, action: Action) {
        match action {
            Action::Sort(sort) => {
                self.reversed = self.sort == sort && !self.reversed;
                self.sort = sort;
                self.shown = Page::of(sort).unwrap_or(self.shown);
                self.arrange();
            }
            Action::Show(page) => self.show(page),
            Action::NextPage => self.show(self.shown.next()),
            Action::Move(by) => self.select(self.cursor.saturating_add_signed(by)),
            Action::Page(by) => self.select(self.cursor.saturating_add_signed(by.saturating_mul(self.page as isize))),
            Action::First => self.select(0),
            Action::Last => self.select(usize::MAX),
            Action::EditFilter => self.editing = true,
            Action::Type(c) => self.refilter(|filter| filter.push(c)),
            Action::Erase => self.refilter(|filter| filter.truncate(filter.char_indices().next_back().map_or(0, |(at, _)| at))),
            Action::EraseAll => self.refilter(String::clear),
            Action::Accept => self.editing = false,
            Action::Back => self.back(),
            Action::ToggleIdle => {
                self.hide_idle = !self.hide_idle;
                self.arrange();
            }
            Action::Detail => {
                self.detail = !self.detail && !self.rows.is_empty();
                if self.detail && self.selected.is_none() {
                    self.select(self.cursor);
                } else if !self.detail {
                    // What was looked at may be gone by now.
                    self.arrange();
                }
            }
            Action::Help => self.help = !self.help,
            Action::Pause => {
                self.paused = !self.paused;
                if let Some(held) = self.held.take() {
                    self.update(held);
                }
            }
            Action::Quit => self.quit = true,
        }
    }

    /// The rows that are on a screen of `page` rows, so that the selected one is among them.
    pub fn visible(&mut self, page: usize) -> Range<usize> {
        self.page = page.max(1);
        let last_offset = self.rows.len().saturating_sub(self.page);
        if self.selected.is_some() {
            self.offset = self.offset.clamp((self.cursor + 1).saturating_sub(self.page), self.cursor);
        }
        self.offset = self.offset.min(last_offset);
        self.offset..self.rows.len().min(self.offset + page)
    }

    /// The workload in a row, and its label.
    pub fn row(&self, row: usize) -> Option<(&Workload, &str)> {
        let index = *self.rows.get(row)?;
        Some((self.view.as_ref()?.workloads.get(index)?, self.labels.get(index)?))
    }

    /// How many rows there are to show.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// How many workloads the snapshot has.
    pub fn workload_count(&self) -> usize {
        self.view.as_ref().map_or(0, |view| view.workloads.len())
    }

    /// The row the cursor is on, once the user moved it.
    pub fn selected_row(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.row(self.cursor).filter(|(workload, _)| workload.cgroup == selected.cgroup).map(|_| self.cursor)
    }

    /// The selected workload as it was last seen, and whether it is still there.
    pub fn inspected(&self) -> Option<(&Workload, bool)> {
        let selected = self.selected.as_ref()?;
        Some((selected, !selected.ended && self.histories.contains_key(&selected.cgroup)))
    }

    /// CPUs that a workload used, interval by interval.
    pub fn history(&self, workload: &Workload) -> Option<&History> {
        self.histories.get(&workload.cgroup)
    }

    /// CPUs that the node used, interval by interval.
    pub fn node_history(&self) -> &History {
        &self.node_history
    }

    /// The last snapshot.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// What does not change.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Which columns are shown.
    pub fn shown(&self) -> Page {
        self.shown
    }

    /// What the rows are ordered by, and whether the other way round.
    pub fn sort(&self) -> (Sort, bool) {
        (self.sort, self.reversed)
    }

    /// What was typed to filter by.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// True while keys go into the filter.
    pub fn is_editing(&self) -> bool {
        self.editing
    }

    /// True while the help is open.
    pub fn shows_help(&self) -> bool {
        self.help
    }

    /// True while the details are open.
    pub fn shows_detail(&self) -> bool {
        self.detail && self.selected.is_some()
    }

    /// True while rows that used no CPU are hidden.
    pub fn hides_idle(&self) -> bool {
        self.hide_idle
    }

    /// True while the picture is held.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// True when the user wants to leave.
    pub fn wants_to_quit(&self) -> bool {
        self.quit
    }

    /// Why the last snapshot could not be read.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Columns of the longest label.
    pub fn longest_label(&self) -> usize {
        self.longest
    }

    fn back(&mut self) {
        if self.help {
            self.help = false;
        } else if self.editing || (!self.filter.is_empty() && !self.detail) {
            self.editing = false;
            self.refilter(String::clear);
        } else if self.detail {
            self.apply(Action::Detail);
        } else {
            self.selected = None;
            self.cursor = 0;
            self.offset = 0;
        }
    }

    /// Rows by name stay in that order.
    fn show(&mut self, page: Page) {
        if page != self.shown && self.sort != Sort::Name {
            (self.sort, self.reversed) = (page.sort(), false);
        }
        self.shown = page;
        self.arrange();
    }

    fn refilter(&mut self, edit: impl FnOnce(&mut String)) {
        edit(&mut self.filter);
        self.arrange();
    }

    fn select(&mut self, row: usize) {
        self.cursor = row.min(self.rows.len().saturating_sub(1));
        self.selected = self.row(self.cursor).map(|(workload, _)| workload.clone());
    }

    /// Adds the snapshot to the histories and forgets the histories of what is no longer there.
    fn remember(&mut self, view: &View) {
        push(&mut self.node_history, view.node.cpu.usage_cores);
        let mut old = std::mem::take(&mut self.histories);
        // A restarted unit has its path twice, once as ended: the history is the living one's.
        let (ended, living): (Vec<_>, Vec<_>) = view.workloads.iter().partition(|w| w.ended);
        for workload in living.into_iter().chain(ended) {
            self.histories.entry(workload.cgroup.clone()).or_insert_with(|| {
                let mut history = old.remove(&workload.cgroup).unwrap_or_default();
                push(&mut history, workload.cpu.usage_cores);
                history
            });
        }
    }

    /// Filters and orders the rows and puts the cursor back on its workload.
    fn arrange(&mut self) {
        let Some(view) = &self.view else { return };
        let words: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        let wanted = |index: usize, workload: &Workload| {
            !(self.hide_idle && figures::is_idle(workload)) && matches(&words, &self.labels[index], workload)
        };
        let mut rows: Vec<usize> =
            view.workloads.iter().enumerate().filter(|(i, workload)| wanted(*i, workload)).map(|(i, _)| i).collect();
        rows.sort_by(|&a, &b| {
            let (one, other) = (&view.workloads[a], &view.workloads[b]);
            let by_name = || self.labels[a].cmp(&self.labels[b]);
            let turned = |order: Ordering| if self.reversed { order.reverse() } else { order };
            let first = match self.sort {
                Sort::Name => turned(by_name()),
                sort => compare(value(sort, one), value(sort, other), self.reversed),
            };
            first.then_with(by_name).then_with(|| one.cgroup.cmp(&other.cgroup)).then_with(|| one.ended.cmp(&other.ended))
        });
        self.rows = rows;
        self.follow();
    }

    /// Puts the cursor on the selected workload. One that is gone leaves the selection to the row that took its place, unless
    /// its details are open: those stay until the user moves on.
    fn follow(&mut self) {
        let last = self.rows.len().saturating_sub(1);
        let Some(selected) = &self.selected else {
            self.cursor = self.cursor.min(last);
            return;
        };
        let Some(view) = &self.view else { return };
        let found = |w: &&Workload| w.cgroup == selected.cgroup;
        let current = view.workloads.iter().filter(found).min_by_key(|w| w.ended).cloned();
        let row = self.rows.iter().position(|&index| {
            let workload = &view.workloads[index];
            current.as_ref().is_some_and(|c| c.cgroup == workload.cgroup && c.ended == workload.ended)
        });
        match (row, current) {
            (Some(row), current) => {
                self.cursor = row;
                self.selected = current;
            }
            (None, current) if self.detail => {
                self.cursor = self.cursor.min(last);
                self.selected = current.or(self.selected.take());
            }
            (None, _) => self.select(self.cursor),
        }
    }
}

fn push(history: &mut History, cores: Option<f64>) {
    if history.len() == HISTORY {
        history.pop_front();
    }
    history.push_back(cores.filter(|c| c.is_finite() && *c >= 0.0).map(|c| c as f32));
}
