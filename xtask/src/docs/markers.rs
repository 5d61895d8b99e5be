//! The generated parts of documents that people write: between `<!-- name:begin -->` and `<!-- name:end -->`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// A document with a generated part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// As it is from the top of the tree.
    pub(super) file: String,
    pub(super) text: String,
}

/// The one document that has the part of this name, whichever it is; `None` where none has.
pub(super) fn document(workspace: &Workspace, name: &str) -> Result<Option<Document>> {
    let mut found = None;
    for path in documents(workspace)? {
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        if !text.contains(&begin(name)) {
            continue;
        }
        let file = path.strip_prefix(&workspace.root).unwrap_or(&path).to_string_lossy().into_owned();
        if let Some(Document { file: first, .. }) = &found {
            bail!("{first} and {file} both have a part \"{name}\": it has one place");
        }
        found = Some(Document { file, text });
    }
    Ok(found)
}

/// The documents at the top of the tree, and those in docs/.
fn documents(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut documents = Vec::new();
    for directory in [workspace.root.clone(), workspace.root.join("docs")] {
        let entries = directory.read_dir().with_context(|| format!("could not list {}", directory.display()))?;
        let paths = entries.flatten().map(|entry| entry.path());
        documents.extend(paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    documents.sort_unstable();
    Ok(documents)
}

fn begin(name: &str) -> String {
    format!("<!-- {name}:begin -->\n")
}

fn end(name: &str) -> String {
    format!("<!-- {name}:end -->")
}

/// What a text has between the marks.
pub(super) fn between<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split_once(&begin(name))?.1.split_once(&end(name)).map(|(part, _)| part)
}

/// The text with another part between the marks; `None` without marks.
pub(super) fn replaced(text: &str, name: &str, part: &str) -> Option<String> {
    let (before, rest) = text.split_once(&begin(name))?;
    let (_, after) = rest.split_once(&end(name))?;
    Some([before, &begin(name), part, &end(name), after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let readme = "a\n<!-- kernels:begin -->\nold\n<!-- kernels:end -->\nb\n";
        let now = replaced(readme, "kernels", "new\n").unwrap();
        assert_eq!(now, "a\n<!-- kernels:begin -->\nnew\n<!-- kernels:end -->\nb\n");
        assert_eq!(replaced(&now, "kernels", "new\n").as_deref(), Some(now.as_str()));
        assert_eq!((between(&now, "kernels"), between(&now, "stages")), (Some("new\n"), None));
        assert_eq!(replaced("a\n<!-- kernels:begin -->\n", "kernels", "new\n"), None);
    }

    #[test]
    fn a_part_has_one_place() {
        let directory = std::env::temp_dir().join(format!("xtask-markers-{}", std::process::id()));
        fs::create_dir_all(directory.join("docs")).unwrap();
        let workspace = Workspace { root: directory.clone(), target: directory.clone() };
        assert_eq!(document(&workspace, "x").unwrap(), None);
        let text = "<!-- x:begin -->\n<!-- x:end -->".to_owned();
        fs::write(directory.join("docs/a.md"), &text).unwrap();
        assert_eq!(document(&workspace, "x").unwrap(), Some(Document { file: "docs/a.md".to_owned(), text: text.clone() }));
        fs::write(directory.join("README.md"), &text).unwrap();
        let error = document(&workspace, "x").unwrap_err().to_string();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(error, "README.md and docs/a.md both have a part \"x\": it has one place");
    }
}
