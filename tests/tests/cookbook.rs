//! The pages of `docs/cookbook` and `docs/troubleshooting.md`, run as they stand: each host of a page is a network namespace with a shell
//! that the page's blocks are typed into.
//!
//! A block's first line says where and how: `sh HOST` must succeed before the next begins, `sh HOST exit=N` must end with that code, `sh HOST
//! background` runs beside what follows. At the end receivers must have succeeded, and daemons must end in order when asked to.
//! A block `text says` holds lines that the block before it printed, in their order; `...` stands for anything.
//!
//! A page's comment `lab` makes its hosts: `link HOST IFACE ADDRESS HOST IFACE ADDRESS`, `sysctl HOST KEY VALUE`.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use mcr_e2e::{programs, traffic_lock};
use mcr_lab::{Namespace, require, veth};
use tempfile::TempDir;

/// Commands a page's text uses that are not ours.
const TOOLS: [&str; 7] = ["ip", "smcrouted", "unshare", "mount", "sysctl", "nft", "setpriv"];

/// How a block is run.
#[derive(Debug, PartialEq)]
struct Block {
    host: String,
    background: bool,
    text: String,
    /// The exit code it must end with.
    exit: i32,
    /// Lines that it prints.
    says: Vec<String>,
}

/// What a page has for this test.
#[derive(Debug, Default)]
struct Page {
    lab: Vec<Vec<String>>,
    blocks: Vec<Block>,
}

fn read(text: &str) -> Page {
    let mut page = Page::default();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "<!-- lab" {
            let lab = lines.by_ref().take_while(|line| *line != "-->");
            page.lab.extend(lab.map(|line| line.split_whitespace().map(str::to_owned).collect()));
        } else if let Some(info) = line.strip_prefix("```sh") {
            let words: Vec<_> = info.split_whitespace().collect();
            let exit = |word: &str| word.strip_prefix("exit=").and_then(|code| code.parse().ok());
            let (host, background, exit) = match words[..] {
                [host] => (host, false, 0),
                [host, "background"] => (host, true, 0),
                [host, how] if exit(how).is_some() => (host, false, exit(how).unwrap_or_default()),
                _ => panic!("a block of commands names its host: ```sh{info}"),
            };
            let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            let (host, text) = (host.to_owned(), text.join("\n"));
            page.blocks.push(Block { host, background, text, exit, says: Vec::new() });
        } else if line == "```text says" {
            let said = lines.by_ref().take_while(|line| *line != "```").map(str::to_owned);
            page.blocks.last_mut().expect("what is said is said by a block").says.extend(said);
        }
    }
    page
}

/// A host: a namespace, and a shell in it that lives as long as the page, with a `/run` of its own, since each host may have a daemon.
struct Host {
    namespace: Namespace,
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    background: usize,
}

impl Host {
    fn new(folder: &Path) -> Self {
        let namespace = Namespace::new().expect("a namespace");
        namespace.quiet_ipv6().expect("sysctls of a namespace of ours");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = namespace.command("unshare");
        // No history, no prompt: the shell reads what it is told and nothing else.
        command.args(["--mount", "bash", "--noprofile", "--norc"]).current_dir(folder);
        command.env("PATH", format!("{}:{path}", programs::directory().display()));
        command.env_remove("XDG_RUNTIME_DIR");
        let mut shell =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare and bash are there");
        let input = shell.stdin.take().expect("piped");
        let output = BufReader::new(shell.stdout.take().expect("piped"));
        let mut host = Self { namespace, shell, input, output, background: 0 };
        host.run("mount -t tmpfs tmpfs /run");
        host
    }

    /// Runs commands that must succeed.
    fn run(&mut self, text: &str) {
        let (status, said) = self.try_run(text);
        assert_eq!(status, 0, "this failed:\n{text}\nand said:\n{said}");
    }

    /// Runs a block to its end, which must be as the page says.
    fn follow(&mut self, block: &Block) {
        let (status, said) = self.try_run(&block.text);
        assert_eq!(status, block.exit, "the exit code of:\n{}\nwhich said:\n{said}", block.text);
        if let Some(missing) = missing(&block.says, &said) {
            panic!("{missing:?} is not, or not there, in what this said:\n{}\n{said}", block.text);
        }
    }

    fn try_run(&mut self, text: &str) -> (i32, String) {
        self.ask(&format!("( set -euo pipefail\n{text}\n) < /dev/null 2>&1"))
    }

    /// Types a command and reads on to its exit status.
    fn ask(&mut self, command: &str) -> (i32, String) {
        writeln!(self.input, "{command}\necho \"@@ $?\"").expect("the shell reads");
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(
                self.output.read_line(&mut line).expect("text"),
                0,
                "the shell is gone; it said:\n{said}"
            );
            if let Some(status) = line.trim_end().strip_prefix("@@ ") {
                return (status.parse().expect("a status"), said);
            }
            said.push_str(&line);
        }
    }

    fn start(&mut self, text: &str) {
        let number = self.background;
        self.background += 1;
        // `exec` makes the program itself the job, so that it, not a shell around it, gets the signal at the end.
        self.ask(&format!("( exec {text} ) > out.$$.{number} 2>&1 & pid_{number}=$!"));
        if text.starts_with("mcrd ") {
            self.run("for attempt in $(seq 100); do mcrctl ping > /dev/null 2>&1 && exit 0; sleep 0.1; done; mcrctl ping");
        } else if let Some(port) = receives_at(text) {
            let bound = format!("grep -qi ':{port:04X} ' /proc/thread-self/net/udp");
            self.run(&format!("for attempt in $(seq 100); do {bound} && exit 0; sleep 0.1; done; exit 1"));
        }
    }

    /// Waits for a job's end, having asked for it if it does not come by itself.
    fn finish(&mut self, number: usize, text: &str) {
        if receives_at(text).is_none() {
            self.ask(&format!("kill -TERM $pid_{number}"));
        }
        let (status, _) = self.ask(&format!("wait $pid_{number}"));
        let (_, said) = self.ask(&format!("cat out.$$.{number}"));
        assert_eq!(status, 0, "this ended with {status}:\n{text}\nand said:\n{said}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What a failed page left running goes with its shell; both are children of this test.
        let _ = writeln!(self.input, "kill -KILL $(jobs -p) 2> /dev/null; exit");
        let _ = self.shell.wait();
    }
}

/// The first of the lines that is not among those said, behind the ones before it. Blanks count as one, `...` as anything.
fn missing<'a>(lines: &'a [String], said: &str) -> Option<&'a str> {
    let plain = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut said = said.lines().map(plain);
    lines.iter().map(String::as_str).find(|line| {
        let wanted = plain(line);
        !said.any(|line| matches(&wanted, &line))
    })
}

fn matches(pattern: &str, line: &str) -> bool {
    let Some((first, others)) = pattern.split_once("...") else { return pattern == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let (middle, last) = others.rsplit_once("...").unwrap_or(("", others));
    for piece in middle.split("...") {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

/// The port that a block's receiver binds.
fn receives_at(text: &str) -> Option<u16> {
    let endpoint = text.strip_prefix("mcrgen recv ")?.split_whitespace().next()?;
    endpoint.split('@').next()?.rsplit(':').next()?.parse().ok()
}

fn build(lab: &[Vec<String>], folder: &Path) -> BTreeMap<String, Host> {
    let mut hosts = BTreeMap::new();
    for line in lab {
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        match words[..] {
            ["link", a, a_name, a_address, b, b_name, b_address] => {
                for host in [a, b] {
                    hosts.entry(host.to_owned()).or_insert_with(|| Host::new(folder));
                }
                veth((&hosts[a].namespace, a_name), (&hosts[b].namespace, b_name)).expect("a cable");
                for (host, name, address) in [(a, a_name, a_address), (b, b_name, b_address)] {
                    let (ip, prefix) = address.split_once('/').expect("an address and a prefix length");
                    let namespace = &hosts[host].namespace;
                    let prefix = prefix.parse().expect("a prefix length");
                    namespace
                        .add_address(name, ip.parse().expect("an address"), prefix)
                        .expect("a free address");
                    namespace.set_up(name).expect("a link");
                }
                for (host, name) in [(a, a_name), (b, b_name)] {
                    hosts[host].namespace.wait_running(name).expect("both ends are up");
                }
            }
            ["sysctl", host, key, value] => hosts[host].namespace.sysctl(key, value).expect("a sysctl"),
            _ => panic!("not a line of a lab: {words:?}"),
        }
    }
    hosts
}

fn follow(page: &str) {
    let Some(()) = require::netns() else { return };
    for tool in TOOLS {
        let found = Command::new("which").arg(tool).stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            let _: Option<()> = require::skip(format_args!("{tool} is not installed"));
            return;
        }
    }
    let _lock = traffic_lock::take();
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../docs", page].iter().collect();
    let page = read(&fs::read_to_string(path).expect("the page is there"));
    let folder = TempDir::with_prefix("mcr-e2e-").expect("a temporary directory");
    let mut hosts = build(&page.lab, folder.path());
    for block in &page.blocks {
        let host = hosts.get_mut(&block.host).unwrap_or_else(|| panic!("no host {}", block.host));
        if block.background { host.start(&block.text) } else { host.follow(block) }
    }
    // Receivers first, wherever they are: a daemon that ends takes their datagrams along.
    for receivers in [true, false] {
        for (name, host) in &mut hosts {
            let jobs = page.blocks.iter().filter(|block| block.background && block.host == *name);
            for (number, block) in jobs.enumerate() {
                if receives_at(&block.text).is_some() == receivers {
                    host.finish(number, &block.text);
                }
            }
        }
    }
}

#[test]
fn unroutable_multicast_reaches_another_segment() {
    follow("cookbook/other-segment.md");
}

#[test]
fn multicast_crosses_a_tunnel() {
    follow("cookbook/tunnel.md");
}

#[test]
fn a_hundred_receivers_get_unicast_copies() {
    follow("cookbook/head-end.md");
}

#[test]
fn the_relay_runs_beside_multicast_routing() {
    follow("cookbook/beside-routing.md");
}

#[test]
fn rules_replace_what_other_tools_did() {
    follow("cookbook/moving.md");
}

#[test]
fn each_trouble_looks_as_described_and_is_mended_as_described() {
    follow("troubleshooting.md");
}

#[test]
fn what_is_said_matches_in_order_with_anything_for_dots() {
    let said = "rule  a  active\nid 7, 12 s\nend\n";
    let all = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert_eq!(missing(&all(&["rule a active", "id ..., ... s", "end"]), said), None);
    assert_eq!(missing(&all(&["end", "rule a active"]), said), Some("rule a active"));
    assert_eq!(missing(&all(&["rule a"]), said), Some("rule a"));
    assert_eq!(missing(&all(&["...active", "id...", "en..."]), said), None);
    assert_eq!(missing(&all(&["...activ"]), said), Some("...activ"));
}

#[test]
fn every_page_is_followed() {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../docs/cookbook"].iter().collect();
    let source = include_str!("cookbook.rs");
    for entry in fs::read_dir(folder).expect("the cookbook") {
        let name = entry.expect("a page").file_name().into_string().expect("a name in ASCII");
        assert!(
            name == "README.md" || source.contains(&format!("follow(\"cookbook/{name}\")")),
            "{name} is not tested"
        );
    }
}
