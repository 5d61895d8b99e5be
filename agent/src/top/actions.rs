//! What the user can ask the live view to do.

use super::order::Sort;
use super::pages::TablePage;
use super::past::Way;

/// One request of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Order by this, on the page that shows it; again: the other way round.
    Sort(Sort),
    /// Show this page.
    Show(TablePage),
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
    /// Lay the rows out in the next way.
    NextShape,
    /// Open or close the selected row's details.
    Detail,
    /// Open a page of text, or close it where it is open.
    Open(TextPage),
    /// Close the page of text.
    Close,
    /// Move the page of text so many lines down (negative: up).
    Scroll(isize),
    /// Hold the picture, or go on.
    Pause,
    /// In a replay: show another collection.
    Go(Way),
    /// Let the shell have the terminal. Done by whoever has the terminal, not by the state.
    Suspend,
    /// End.
    Quit,
}

/// Pages of text that cover the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPage {
    /// What the keys do and what the columns mean.
    Help,
    /// Which signals are on and why others are not.
    Signals,
}
