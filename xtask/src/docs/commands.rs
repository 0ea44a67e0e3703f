//! Commands in documents: each line of a block of shell that begins with one of our programs must be one that the program takes.
//!
//! Only whether it would be understood is looked at; the cookbook's and the troubleshooting page's blocks are also run, by a test.

/// A command of ours, as words; the first is the program, `cargo xtask` being one.
pub(super) type Words = Vec<String>;

const PROGRAMS: [&str; 3] = ["mcrd", "mcrctl", "mcrgen"];

/// What may stand before a program's name.
const PREFIXES: [&str; 6] = ["sudo", "exec", "time", "do", "then", "!"];

/// Our commands in a document's blocks of shell, each with the line it begins in, counted from 1.
pub(super) fn find(text: &str) -> Vec<(usize, Words)> {
    let mut found = Vec::new();
    let mut block = None;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            block =
                if block.is_none() { Some(info.split_whitespace().next().unwrap_or_default()) } else { None };
            continue;
        }
        let mut command = match block {
            Some("sh") => line.to_owned(),
            Some("console") => match line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")) {
                Some(typed) => typed.to_owned(),
                None => continue,
            },
            _ => continue,
        };
        while let Some(begun) = command.strip_suffix('\\') {
            let Some((_, next)) = lines.next() else { break };
            command = format!("{begun} {}", next.trim_start_matches("> ").trim());
        }
        found.extend(simple_commands(&command).into_iter().filter_map(ours).map(|words| (index + 1, words)));
    }
    found
}

/// A command of ours without what only says how it is run.
fn ours(mut words: Words) -> Option<Words> {
    if let Some(end) = words.iter().position(|word| word == "--").filter(|_| words[0] == "cargo") {
        let program = words.iter().position(|word| word == "--bin").and_then(|at| words.get(at + 1)).cloned();
        words.drain(..end);
        words[0] = program?;
    }
    if words.len() > 1 && words[0] == "cargo" && words[1] == "xtask" {
        words.drain(..2);
        words.insert(0, "cargo xtask".into());
        return Some(words);
    }
    let start = words.iter().position(|word| !PREFIXES.contains(&word.as_str()) && !is_assignment(word))?;
    words.drain(..start);
    let program = words[0].rsplit('/').next().unwrap_or_default().to_owned();
    words[0] = program;
    PROGRAMS.contains(&words[0].as_str()).then_some(words)
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
}

/// A line of shell as commands of words: quotes are taken off, and comments, redirections and operators are ends.
fn simple_commands(line: &str) -> Vec<Words> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut letters = line.chars().peekable();
    let mut skips_word = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\'' | '"' => {
                let quoted: String = letters.by_ref().take_while(|c| *c != letter).collect();
                word.get_or_insert_default().push_str(&quoted);
            }
            '#' if word.is_none() => break,
            ' ' | '>' | '<' | '|' | ';' | '&' | '(' | ')' => {
                // What stands behind a redirection is a file's name.
                words.extend(word.take().filter(|_| !std::mem::take(&mut skips_word)));
                match letter {
                    '>' | '<' => {
                        while letters.peek().is_some_and(|c| matches!(c, ' ' | '>' | '&')) {
                            letters.next();
                        }
                        skips_word = true;
                    }
                    ' ' => {}
                    _ => commands.push(std::mem::take(&mut words)),
                }
            }
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word.filter(|_| !skips_word));
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Words> {
        find(&format!("```sh\n{line}\n```\n")).into_iter().map(|(_, words)| words).collect()
    }

    #[test]
    fn commands_are_found_whatever_stands_around_them() {
        assert_eq!(words("mcrctl list   # all"), [["mcrctl", "list"]]);
        assert_eq!(words("sudo target/release/mcrctl show 'a b'"), [["mcrctl", "show", "a b"]]);
        assert_eq!(words("XDG_RUNTIME_DIR=/tmp mcrd run &"), [["mcrd", "run"]]);
        assert_eq!(
            words("mcrctl --json stats > file && mcrctl ping"),
            [vec!["mcrctl", "--json", "stats"], vec!["mcrctl", "ping"]]
        );
        assert_eq!(
            words("mcrctl add '10.0.0.9>232.1.1.1:5@eth0' 10.0.0.1:1")[0][2],
            "10.0.0.9>232.1.1.1:5@eth0"
        );
        assert_eq!(words("cargo run --release --bin mcrd -- demo"), [["mcrd", "demo"]]);
        assert_eq!(words("cargo xtask docs --check"), [["cargo xtask", "docs", "--check"]]);
        assert_eq!(words("for i in 1 2; do mcrctl ping; done"), [["mcrctl", "ping"]]);
    }

    #[test]
    fn a_command_goes_on_behind_a_backslash_and_begins_in_its_first_line() {
        let found = find("text\n```sh\nmcrctl add \\\n    a b\n```\n");
        assert_eq!(found, [(3, ["mcrctl", "add", "a", "b"].map(str::to_owned).to_vec())]);
    }

    #[test]
    fn only_what_is_typed_counts_in_a_session() {
        let found =
            find("```console\n$ mcrctl ping\nmcrctl is not typed here\n```\n```text\nmcrctl nothing\n```\n");
        assert_eq!(found.len(), 1);
    }
}
