//! What the live view knows between two frames: the last snapshot, the histories, and what the user chose to see of them.
//!
//! Pure: snapshots and actions go in, rows in order come out. Keys become actions in `keys`, rows become cells in `render`.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::actions::{Action, TextPage};
use super::options::TopOptions;
use super::order::Sort;
use super::pages::TablePage;
use super::past::{PastView, Shown};
use super::tree::{self, RowChoice, RowLayout, ShownRow, TableRow};
use crate::snapshot::document::{Snapshot, WorkloadUsage};

/// Intervals that a history keeps: three minutes at the usual second.
const HISTORY: usize = 180;

/// What does not change while the view is open.
#[derive(Clone, Debug, Default)]
pub struct TopFacts {
    /// Operating system and release, `Linux 6.18.0`.
    pub kernel: String,
    /// Name and version of this program.
    pub agent: String,
    /// Time between two snapshots.
    pub interval: Duration,
}

/// CPUs used per interval, oldest first; `None` where it was not known.
pub type History = VecDeque<Option<f32>>;

/// The live view's state.
#[derive(Debug)]
pub struct TopState {
    facts: TopFacts,
    snapshot: Option<Snapshot>,
    /// Set in a replay.
    past: Option<PastView>,
    /// The newest snapshot that came while paused.
    held: Option<Snapshot>,
    paused: bool,
    shown: TablePage,
    shape: RowLayout,
    choice: RowChoice,
    editing: bool,
    text_page: Option<TextPage>,
    /// First line of the page of text on the screen, and the last one that may be that.
    scroll: usize,
    last_scroll: usize,
    detail: bool,
    quit: bool,
    error: Option<String>,
    /// By cgroup path.
    histories: HashMap<String, History>,
    node_history: History,
    /// What the snapshot's workloads make.
    rows: Vec<TableRow>,
    /// Columns of the longest name that is shown.
    longest: usize,
    /// Those that are shown, in order.
    shown_rows: Vec<ShownRow>,
    /// Position in `shown_rows`.
    cursor: usize,
    /// The workload that the cursor follows: none until the user moves it.
    selected: Option<WorkloadUsage>,
    /// First row on the screen, and how many fit.
    offset: usize,
    page: usize,
}

impl TopState {
    /// Nothing seen yet.
    pub fn new(facts: TopFacts, options: &TopOptions) -> Self {
        let choice = options.choice();
        Self {
            facts,
            snapshot: None,
            past: None,
            held: None,
            paused: false,
            shown: TablePage::of(choice.sort).unwrap_or_default(),
            shape: options.view,
            choice,
            editing: false,
            text_page: None,
            scroll: 0,
            last_scroll: 0,
            detail: false,
            quit: false,
            error: None,
            histories: HashMap::new(),
            node_history: History::new(),
            rows: Vec::new(),
            longest: 0,
            shown_rows: Vec::new(),
            cursor: 0,
            selected: None,
            offset: 0,
            page: 1,
        }
    }

    /// The same for a replay.
    pub fn replaying(facts: TopFacts, options: &TopOptions) -> Self {
        Self { past: Some(PastView::new()), ..Self::new(facts, options) }
    }

    /// Takes a snapshot of the past. Histories go on where it follows the one before.
    pub fn show_past(&mut self, shown: Shown) {
        self.error = None;
        let interval = shown.place.interval;
        let follows = self.past.as_mut().is_some_and(|past| past.arrive(shown.place));
        let Some(snapshot) = shown.snapshot else { return };
        if !follows {
            self.histories.clear();
            self.node_history.clear();
        }
        self.facts.interval = interval.unwrap_or_default();
        self.update(snapshot);
    }

    /// Takes a new snapshot; while paused it is held back.
    pub fn update(&mut self, snapshot: Snapshot) {
        self.error = None;
        if self.paused && self.snapshot.is_some() {
            self.held = Some(snapshot);
            return;
        }
        self.remember(&snapshot);
        self.snapshot = Some(snapshot);
        self.make_rows();
    }

    /// Notes that a snapshot could not be read. The last one stays on the screen.
    pub fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    /// Does what the user asks for.
    pub fn apply(&mut self, action: Action) {
        match action {
            Action::Sort(sort) => {
                self.choice.reversed = self.choice.sort == sort && !self.choice.reversed;
                self.choice.sort = sort;
                self.shown = TablePage::of(sort).unwrap_or(self.shown);
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
                self.choice.hide_idle = !self.choice.hide_idle;
                self.arrange();
            }
            Action::NextShape => {
                self.shape = self.shape.next();
                self.make_rows();
            }
            Action::Detail => {
                self.detail = !self.detail && !self.shown_rows.is_empty();
                if self.detail && self.selected.is_none() {
                    self.select(self.cursor);
                } else if !self.detail {
                    // What was looked at may be gone by now.
                    self.arrange();
                }
            }
            Action::Open(page) => {
                self.text_page = Some(page).filter(|page| self.text_page != Some(*page));
                self.scroll = 0;
            }
            Action::Close => self.text_page = None,
            Action::Scroll(by) => self.scroll = self.scroll.saturating_add_signed(by).min(self.last_scroll),
            Action::Pause => {
                self.paused = !self.paused;
                if let Some(held) = self.held.take() {
                    self.update(held);
                }
            }
            Action::Go(way) => {
                if let Some(past) = &mut self.past {
                    past.want(way);
                }
            }
            Action::Suspend => {}
            Action::Quit => self.quit = true,
        }
    }

    /// The rows that are on a screen of `page` rows, so that the selected one is among them.
    pub fn visible(&mut self, page: usize) -> Range<usize> {
        self.page = page.max(1);
        let last_offset = self.shown_rows.len().saturating_sub(self.page);
        if self.selected.is_some() {
            self.offset = self.offset.clamp((self.cursor + 1).saturating_sub(self.page), self.cursor);
        }
        self.offset = self.offset.min(last_offset);
        self.offset..self.shown_rows.len().min(self.offset + page)
    }

    /// The lines of a page of text with so many lines that are on a screen of `page`.
    pub fn visible_text(&mut self, lines: usize, page: usize) -> Range<usize> {
        self.page = page.max(1);
        self.last_scroll = lines.saturating_sub(page);
        self.scroll = self.scroll.min(self.last_scroll);
        self.scroll..lines.min(self.scroll + page)
    }

    /// Lines or rows on the screen.
    pub fn page(&self) -> isize {
        self.page as isize
    }

    /// The workload in a row, and its name there.
    pub fn row(&self, row: usize) -> Option<(&WorkloadUsage, &str)> {
        let shown = self.shown_rows.get(row)?;
        Some((&self.rows.get(shown.row)?.workload, &shown.name))
    }

    /// How many rows there are to show.
    pub fn row_count(&self) -> usize {
        self.shown_rows.len()
    }

    /// How many rows there would be without a filter.
    pub fn all_count(&self) -> usize {
        self.rows.len()
    }

    /// How the rows are laid out.
    pub fn shape(&self) -> RowLayout {
        self.shape
    }

    /// The row the cursor is on, once the user moved it.
    pub fn selected_row(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.row(self.cursor).filter(|(workload, _)| workload.cgroup == selected.cgroup).map(|_| self.cursor)
    }

    /// The selected workload as it was last seen, and whether it is still there.
    pub fn inspected(&self) -> Option<(&WorkloadUsage, bool)> {
        let selected = self.selected.as_ref()?;
        Some((selected, !selected.ended && self.histories.contains_key(&selected.cgroup)))
    }

    /// CPUs that a workload used, interval by interval.
    pub fn history(&self, workload: &WorkloadUsage) -> Option<&History> {
        self.histories.get(&workload.cgroup)
    }

    /// CPUs that the node used, interval by interval.
    pub fn node_history(&self) -> &History {
        &self.node_history
    }

    /// The last snapshot.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// In a replay, where it is.
    pub fn past(&self) -> Option<&PastView> {
        self.past.as_ref()
    }

    /// The same, to go on.
    pub fn past_mut(&mut self) -> Option<&mut PastView> {
        self.past.as_mut()
    }

    /// What does not change.
    pub fn facts(&self) -> &TopFacts {
        &self.facts
    }

    /// Which columns are shown.
    pub fn shown(&self) -> TablePage {
        self.shown
    }

    /// What the rows are ordered by, and whether the other way round.
    pub fn sort(&self) -> (Sort, bool) {
        (self.choice.sort, self.choice.reversed)
    }

    /// What was typed to filter by.
    pub fn filter(&self) -> &str {
        &self.choice.filter
    }

    /// True while keys go into the filter.
    pub fn is_editing(&self) -> bool {
        self.editing
    }

    /// The page of text that is open.
    pub fn text_page(&self) -> Option<TextPage> {
        self.text_page
    }

    /// True while the details are open.
    pub fn shows_detail(&self) -> bool {
        self.detail && self.selected.is_some()
    }

    /// True while rows that used no CPU are hidden.
    pub fn hides_idle(&self) -> bool {
        self.choice.hide_idle
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

    /// Columns of the longest name that is shown.
    pub fn longest_label(&self) -> usize {
        self.longest
    }

    fn back(&mut self) {
        if self.text_page.is_some() {
            self.text_page = None;
        } else if self.editing || (!self.choice.filter.is_empty() && !self.detail) {
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
    fn show(&mut self, page: TablePage) {
        if page != self.shown && self.choice.sort != Sort::Name {
            (self.choice.sort, self.choice.reversed) = (page.sort(), false);
        }
        self.shown = page;
        self.arrange();
    }

    fn refilter(&mut self, edit: impl FnOnce(&mut String)) {
        edit(&mut self.choice.filter);
        self.arrange();
    }

    fn select(&mut self, row: usize) {
        self.cursor = row.min(self.shown_rows.len().saturating_sub(1));
        self.selected = self.row(self.cursor).map(|(workload, _)| workload.clone());
    }

    /// Adds the snapshot to the histories and forgets the histories of what is no longer there.
    fn remember(&mut self, snapshot: &Snapshot) {
        push(&mut self.node_history, snapshot.node.cpu.usage_cores);
        let mut old = std::mem::take(&mut self.histories);
        // A restarted unit has its path twice, once as ended: the history is the living one's.
        let (ended, living): (Vec<_>, Vec<_>) = snapshot.workloads.iter().partition(|w| w.ended);
        for workload in living.into_iter().chain(ended) {
            self.histories.entry(workload.cgroup.clone()).or_insert_with(|| {
                let mut history = old.remove(&workload.cgroup).unwrap_or_default();
                push(&mut history, workload.cpu.usage_cores);
                history
            });
        }
    }

    /// What the workloads of the snapshot make, laid out as chosen.
    fn make_rows(&mut self) {
        self.rows = self.snapshot.as_ref().map(|snapshot| tree::rows(&snapshot.workloads, self.shape)).unwrap_or_default();
        self.arrange();
    }

    /// Filters and orders the rows and puts the cursor back on its workload.
    fn arrange(&mut self) {
        self.shown_rows = tree::arrange(&self.rows, &self.choice);
        self.longest = self.shown_rows.iter().map(|shown| super::format::width(&shown.name)).max().unwrap_or(0);
        self.follow();
    }

    /// Puts the cursor on the selected workload. One that is gone leaves the selection to the row that took its place, unless
    /// its details are open: those stay until the user moves on.
    fn follow(&mut self) {
        let last = self.shown_rows.len().saturating_sub(1);
        let Some(selected) = &self.selected else {
            self.cursor = self.cursor.min(last);
            return;
        };
        let is_selected = |row: &&TableRow| row.workload.cgroup == selected.cgroup;
        let current = self.rows.iter().filter(is_selected).map(|row| &row.workload).min_by_key(|w| w.ended).cloned();
        let row = self.shown_rows.iter().position(|shown| {
            let workload = &self.rows[shown.row].workload;
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
