//! The reference of the configuration file: every key with its help, its default and its environment variables.

use std::fmt::Write as _;

use super::{Config, KEYS};

impl Config {
    /// The file with every default, and every key explained.
    pub fn reference() -> String {
        let mut text = String::from(
            "# Configuration of podmeter. Every value here is the default.\n\
             # Precedence, highest first: command line, environment, this file, default.\n",
        );
        let mut open = Vec::new();
        for key in KEYS {
            let mut sections: Vec<_> = key.name.split('.').collect();
            let name = sections.pop().unwrap_or_default();
            text.push('\n');
            let same = sections.iter().zip(&open).take_while(|(a, b)| a == b).count();
            for (depth, section) in sections.iter().enumerate().skip(same) {
                let _ = writeln!(text, "{:1$}{section}:", "", 2 * depth);
            }
            let indent = " ".repeat(2 * sections.len());
            open = sections;
            let variables: Vec<_> =
                std::iter::once(key.variable()).chain(key.aliases.iter().map(|(name, _)| (*name).to_owned())).collect();
            let sources = match key.in_file_only {
                true => "In the file only.".to_owned(),
                false => format!("Environment: {}.", variables.join(", ")),
            };
            for line in wrap(key.help).into_iter().chain(wrap(&sources)) {
                let _ = writeln!(text, "{indent}# {line}");
            }
            let _ = match key.default {
                Some(default) => writeln!(text, "{indent}{name}: {default}"),
                None => writeln!(text, "{indent}# {name}: {}", key.example),
            };
        }
        text
    }
}

/// Lines of at most 100 bytes, broken between words.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
