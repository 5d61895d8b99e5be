//! The picture in the documentation, drawn by the code that it shows.

use std::fmt::Write;

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

use super::super::past::Shown;
use super::{draw, new, press, replaying};
use crate::snapshot::synthetic;

#[test]
fn the_picture_in_the_documentation_is_what_is_drawn() {
    let mut state = new();
    for tick in 0..60 {
        state.update(synthetic::snapshot(tick));
    }
    press(&mut state, "j");
    compare("top.svg", &svg(&draw(&mut state, 160, 19, true)));
}

#[test]
fn the_picture_of_a_replay_is_what_is_drawn() {
    let mut state = replaying::begun();
    for number in 720..=732 {
        let snapshot = Some(synthetic::snapshot(number));
        state.show_past(Shown { snapshot, place: replaying::among(number as usize, 1440) });
    }
    press(&mut state, "jj");
    compare("replay.svg", &svg(&draw(&mut state, 160, 14, true)));
}

/// A picture is the stored one, or becomes it.
fn compare(name: &str, picture: &str) {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_PICTURES").is_some() {
        std::fs::write(&path, picture).expect("the picture can be written");
    }
    let stored = std::fs::read_to_string(&path).expect("the picture is part of the repository");
    assert!(stored == picture, "docs/{name} is not what is drawn now: run this test with UPDATE_PICTURES=1");
}

/// Width and height of a character cell of the picture.
const CELL: (f64, f64) = (8.4, 18.0);

/// A screen as SVG. Every word has its own place and lines and bars are shapes, so that it looks the same in any font.
fn svg(buffer: &Buffer) -> String {
    let (width, height) = (f64::from(buffer.area.width + 2) * CELL.0, f64::from(buffer.area.height + 1) * CELL.1);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"monospace\" font-size=\"14\">\n\
         <title>podmeter top</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16181d\"/>\n"
    );
    for y in 0..buffer.area.height {
        let mut x = 0;
        while x < buffer.area.width {
            let first = &buffer[(x, y)];
            let style = |x: u16| (buffer[(x, y)].fg, buffer[(x, y)].modifier, shape(buffer[(x, y)].symbol()));
            let begin = x;
            let mut word = String::new();
            while x < buffer.area.width && style(x) == style(begin) && (buffer[(x, y)].symbol() == " ") == (first.symbol() == " ")
            {
                word += buffer[(x, y)].symbol();
                x += 1;
            }
            let (left, top, length) =
                (f64::from(begin + 1) * CELL.0, (f64::from(y) + 0.5) * CELL.1, f64::from(x - begin) * CELL.0);
            let mut rect = |from: f64, height: f64, fill: &str| {
                let top = top + from;
                writeln!(
                    out,
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
                )
                .expect("a String takes it");
            };
            if first.modifier.contains(Modifier::REVERSED) {
                rect(0.0, CELL.1, "#2f3642");
            }
            let fill = match first.fg {
                Color::Cyan => "#56b6c2",
                Color::Yellow => "#e5c07b",
                Color::Red => "#e06c75",
                _ if first.modifier.contains(Modifier::DIM) => "#7d8593",
                _ => "#d7dae0",
            };
            if let Some((from, height)) = shape(first.symbol()) {
                rect(from, height, fill);
            } else if word.trim() != "" {
                let weight = if first.modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { "" };
                let word = word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let base = top + 13.5;
                writeln!(
                    out,
                    "<text x=\"{left:.1}\" y=\"{base:.1}\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
                     fill=\"{fill}\"{weight}>{word}</text>"
                )
                .expect("a String takes it");
            }
        }
    }
    out + "</svg>\n"
}

/// Where a line or a bar begins below the top of its cell, and how high it is.
fn shape(symbol: &str) -> Option<(f64, f64)> {
    match symbol {
        "━" => Some((7.5, 3.0)),
        "─" => Some((8.5, 1.0)),
        _ => {
            let eighths = "▁▂▃▄▅▆▇█".chars().position(|bar| symbol == bar.encode_utf8(&mut [0; 4]))? + 1;
            let height = eighths as f64 * (CELL.1 - 3.0) / 8.0;
            Some((CELL.1 - 1.0 - height, height))
        }
    }
}
