//! Documents with parts that are made from code: each stands between `<!-- made: NAME -->` and `<!-- end -->`.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};

const BEGIN: &str = "<!-- made: ";
const END: &str = "<!-- end -->";

/// The text with each part made anew.
pub(super) fn fill(
    text: &str,
    mut make: impl FnMut(&str) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let mut filled = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let _ = writeln!(filled, "{line}");
        let Some(name) = line.strip_prefix(BEGIN) else { continue };
        let name = name.strip_suffix(" -->").with_context(|| format!("`{line}` does not end with ` -->`"))?;
        let part = make(name).with_context(|| format!("cannot make the part `{name}`"))?;
        let _ = writeln!(filled, "\n{}\n\n{END}", part.trim_end());
        let mut old = lines.by_ref().skip_while(|line| *line != END && !line.starts_with(BEGIN));
        match old.next() {
            Some(END) => {}
            _ => bail!("the part `{name}` has no `{END}`"),
        }
    }
    Ok(filled)
}

/// The names of the parts of a text, in their order.
pub(super) fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix(BEGIN)?.strip_suffix(" -->"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_marks_is_made_anew_and_the_rest_stays() {
        let text = "# T\n<!-- made: a b -->\nold\n<!-- end -->\nrest\n";
        let filled = fill(text, |name| Ok(format!("new {name}\n"))).unwrap();
        assert_eq!(filled, "# T\n<!-- made: a b -->\n\nnew a b\n\n<!-- end -->\nrest\n");
        assert_eq!(fill(&filled, |name| Ok(format!("new {name}\n"))).unwrap(), filled);
        assert_eq!(names(&filled).collect::<Vec<_>>(), ["a b"]);
    }

    #[test]
    fn a_mark_without_an_end_is_refused_before_it_eats_the_next() {
        for text in ["<!-- made: a -->\nold\n", "<!-- made: a -->\n<!-- made: b -->\n<!-- end -->\n"] {
            let error = fill(text, |_| Ok(String::new())).unwrap_err();
            assert_eq!(error.to_string(), "the part `a` has no `<!-- end -->`");
        }
    }
}
