//! From TOML to [`Config`]: what each table may contain, and what must hold between them.

use std::{collections::HashMap, net::SocketAddr};

use super::error::{ConfigError, ConfigErrorKind};
use super::reader::{Node, Source, Table};
use super::{Class, Config, DEPTH_MAX, HttpConfig, PRIORITY_MAX, Reflect, WORKERS_MAX, is_host_name};
use crate::endpoint::{nearest, quote};
use crate::reflect::{ReadKey, Value};
use crate::rule::{RuleName, RuleSpec, check_name};

const CONFIG_KEYS: &[&str] = &["workers", "others_may_read", "http", "rule", "class", "reflect"];
const HTTP_KEYS: &[&str] = &["listen", "names", "token_file"];
const RULE_KEYS: &[&str] = &["name", "input", "outputs", "class", "datapath", "enabled"];
const CLASS_KEYS: &[&str] = &["name", "dscp", "priority", "rate", "depth"];

const INPUT_WANT: &str = "an input, as in \"239.1.1.1:5000@eth0\"";
const OUTPUT_WANT: &str = "an output, as in \"239.2.2.2:6000@eth1,ttl=16\"";
const NAME_WANT: &str = "a name, as in \"studio-video\"";

/// Reads a configuration. `file` is not opened: it names in errors where `text` came from.
///
/// # Errors
/// The first thing found wrong, with its line and key.
///
/// ```
/// let error = mcr_proto::config::parse("worker = 2", "mcr.toml").unwrap_err();
/// assert!(error.to_string().starts_with("mcr.toml:1: key `worker`: there is no such key (did you mean `workers`?)"));
/// ```
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
    let source = Source::new(text, file);
    let document = source.parse()?;
    let root = source.root(&document);
    root.expect(CONFIG_KEYS)?;
    let workers = root.find("workers").map(|node| node.integer(1..=WORKERS_MAX, "a number from 1 to 128"));
    let allow_read = root.find("others_may_read").map(|node| node.boolean());
    let (classes, class_names) = read_classes(&root)?;
    Ok(Config {
        workers: workers.transpose()?,
        allow_read: allow_read.transpose()?.unwrap_or_default(),
        http: root.find("http").map(|node| read_http(&node)).transpose()?,
        rules: read_rules(&root, &class_names)?,
        classes,
        reflects: read_reflects(&root)?,
    })
}

/// The text of a file's bytes. `file` names in errors where they came from.
///
/// # Errors
/// They are not UTF-8; the error names the line.
///
/// ```
/// let error = mcr_proto::config::text(b"workers = 2\n# caf\xe9\n".to_vec(), "mcr.toml").unwrap_err();
/// assert!(error.to_string().starts_with("mcr.toml:2: "));
/// ```
pub fn text(bytes: Vec<u8>, file: &str) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]);
        Source::new(&before, file).not_text()
    })
}

fn read_http(node: &Node<'_>) -> Result<HttpConfig, ConfigError> {
    const LISTEN_WANT: &str = "an address and a port, as in \"127.0.0.1:9650\"";
    const NAME_WANT: &str = "a host's name, as in \"relay1.example.com\"";
    const FILE_WANT: &str = "the absolute name of a file, as in \"/etc/mcr/http.token\"";
    let table = node.table("[http] on a line of its own, and listen = \"127.0.0.1:9650\" under it")?;
    table.expect(HTTP_KEYS)?;
    let listen = table.need("listen", "listen = \"127.0.0.1:9650\"")?;
    let text = listen.text(LISTEN_WANT)?;
    let wrong = |node: &Node<'_>, text: &str, want| {
        Err(node.fail(ConfigErrorKind::Value { text: quote(text), want }))
    };
    let Ok(address) = text.parse() else { return wrong(&listen, text, LISTEN_WANT) };
    let mut http = HttpConfig { listen: address, names: Vec::new(), token_file: None };
    if let Some(names) = table.find("names") {
        for item in names.items("a list, as in [\"relay1.example.com\"]")? {
            let name = item.text(NAME_WANT)?;
            if !is_host_name(name) {
                return wrong(&item, name, NAME_WANT);
            }
            http.names.push(name.to_owned());
        }
    }
    if let Some(node) = table.find("token_file") {
        let file = node.text(FILE_WANT)?;
        if !file.starts_with('/') || file.contains('\0') {
            return wrong(&node, file, FILE_WANT);
        }
        http.token_file = Some(file.to_owned());
    }
    Ok(http)
}

/// Names and their offsets in the file; the second use of a name is an error.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn add(&mut self, name: &str, node: &Node<'_>) -> Result<(), ConfigError> {
        let Some(first) = self.0.insert(name.to_owned(), node.offset()) else { return Ok(()) };
        let first_line = node.line_of(first);
        Err(node.fail(ConfigErrorKind::DuplicateName { name: name.to_owned(), first_line }))
    }
}

fn read_rules(root: &Table<'_>, classes: &Names) -> Result<Vec<RuleSpec>, ConfigError> {
    let mut names = Names::default();
    let mut rules = Vec::new();
    let mut places = Vec::new();
    for table in root.tables("rule", "[[rule]] on a line of its own, and the keys of the rule under it")? {
        let rule = read_rule(&table)?;
        if let (Some(name), Some(node)) = (&rule.name, table.find("name")) {
            names.add(name.as_str(), &node)?;
        }
        if let (Some(class), Some(node)) = (&rule.class, table.find("class")) {
            expect_class(class, &node, classes)?;
        }
        rules.push(rule);
        places.push(table);
    }
    expect_no_loop(&rules, &places)?;
    Ok(rules)
}

/// No rule may feed itself by others within the host.
fn expect_no_loop(rules: &[RuleSpec], places: &[Table<'_>]) -> Result<(), ConfigError> {
    let mut by_input: HashMap<SocketAddr, Vec<&RuleSpec>> = HashMap::new();
    for rule in rules {
        by_input.entry(rule.input.socket_addr()).or_default().push(rule);
    }
    for (rule, table) in rules.iter().zip(places) {
        if let Some(way) = rule.way_back(|at| by_input.get(&at).cloned().unwrap_or_default()) {
            let kind = ConfigErrorKind::Loop(way);
            return Err(match table.find("outputs") {
                Some(node) => node.fail(kind),
                None => table.fail(kind),
            });
        }
    }
    Ok(())
}

fn read_rule(table: &Table<'_>) -> Result<RuleSpec, ConfigError> {
    table.expect(RULE_KEYS)?;
    let input = table.need("input", "input = \"239.1.1.1:5000@eth0\"")?;
    let outputs = table.need("outputs", "outputs = [\"10.100.0.2:6000\"]")?;
    let output_nodes = outputs.items("a list, as in [\"10.100.0.2:6000\"]")?;
    let mut rule = RuleSpec::new(
        input.endpoint(INPUT_WANT)?,
        output_nodes.iter().map(|node| node.endpoint(OUTPUT_WANT)).collect::<Result<_, _>>()?,
    );
    rule.name = read_name(table)?;
    if let Some(node) = table.find("class") {
        rule.class = Some(read_class_name(&node)?);
    }
    if let Some(node) = table.find("datapath") {
        rule.datapath = node.parse("auto, kernel, packet or udp, in quotes", ConfigErrorKind::Datapath)?;
    }
    if let Some(node) = table.find("enabled") {
        rule.enabled = node.boolean()?;
    }
    rule.check().map_err(|error| {
        let at = error.output().and_then(|index| output_nodes.get(index)).unwrap_or(&outputs);
        at.fail(ConfigErrorKind::Rule(error))
    })?;
    Ok(rule)
}

fn read_name(table: &Table<'_>) -> Result<Option<RuleName>, ConfigError> {
    table.find("name").map(|node| node.parse(NAME_WANT, ConfigErrorKind::Name)).transpose()
}

fn read_class_name(node: &Node<'_>) -> Result<String, ConfigError> {
    let name = node.text(NAME_WANT)?;
    check_name(name).map_err(|error| node.fail(ConfigErrorKind::Name(error)))?;
    Ok(name.to_owned())
}

fn expect_class(class: &str, node: &Node<'_>, classes: &Names) -> Result<(), ConfigError> {
    if classes.0.contains_key(class) {
        return Ok(());
    }
    let known: Vec<&str> = classes.0.keys().map(String::as_str).collect();
    let near = nearest(class, &known);
    Err(node.fail(ConfigErrorKind::UndefinedClass { name: class.to_owned(), near }))
}

fn read_classes(root: &Table<'_>) -> Result<(Vec<Class>, Names), ConfigError> {
    let mut names = Names::default();
    let mut owners = HashMap::new();
    let mut classes = Vec::new();
    for table in root.tables("class", "[[class]] on a line of its own, and the keys of the class under it")? {
        table.expect(CLASS_KEYS)?;
        let name_node = table.need("name", "name = \"video\"")?;
        let name = read_class_name(&name_node)?;
        names.add(&name, &name_node)?;
        let priority =
            table.need("priority", "priority = 1")?.integer(0..=PRIORITY_MAX, "a number from 0 to 7")?;
        let mut class = Class { name, dscp: Vec::new(), priority, rate: None, depth: None };
        if let Some(node) = table.find("dscp") {
            read_codepoints(&node, &mut class, &mut owners)?;
        }
        if let Some(node) = table.find("rate") {
            let text = node.scalar("a rate, as in \"8M\" or \"500pps\"")?;
            class.rate = Some(text.parse().map_err(|error| node.fail(ConfigErrorKind::Endpoint(error)))?);
        }
        if let Some(node) = table.find("depth") {
            class.depth = Some(node.integer(1..=DEPTH_MAX, "a number of datagrams from 1 to 65536")?);
        }
        classes.push(class);
    }
    Ok((classes, names))
}

/// A codepoint belongs to one class; `owners` remembers to which, and where that is said.
fn read_codepoints(
    node: &Node<'_>,
    class: &mut Class,
    owners: &mut HashMap<u8, (String, usize)>,
) -> Result<(), ConfigError> {
    for item in node.items("a list, as in [\"af41\", \"ef\"]")? {
        let text = item.scalar("a DSCP, as in \"af41\" or 34")?;
        let codepoint: crate::endpoint::Codepoint =
            text.parse().map_err(|error| item.fail(ConfigErrorKind::Endpoint(error)))?;
        if let Some((owner, first)) = owners.get(&codepoint.value()) {
            return Err(item.fail(ConfigErrorKind::DuplicateDscp {
                dscp: codepoint.to_string(),
                class: owner.clone(),
                first_line: item.line_of(*first),
            }));
        }
        owners.insert(codepoint.value(), (class.name.clone(), item.offset()));
        class.dscp.push(codepoint);
    }
    Ok(())
}

fn read_reflects(root: &Table<'_>) -> Result<Vec<Reflect>, ConfigError> {
    let mut names = Names::default();
    let mut places = HashMap::new();
    let mut reflects = Vec::new();
    for table in
        root.tables("reflect", "[[reflect]] on a line of its own, and the keys of the reflector under it")?
    {
        let reflect = read_reflect(&table)?;
        if let (Some(name), Some(node)) = (&reflect.name, table.find("name")) {
            names.add(name.as_str(), &node)?;
        }
        if let Some(first) = places.insert((reflect.interface, reflect.port), table.offset()) {
            let first_line = table.line_of(first);
            let interface = reflect.interface.to_string();
            return Err(table.fail(ConfigErrorKind::DuplicateReflect {
                interface,
                port: reflect.port,
                first_line,
            }));
        }
        reflects.push(reflect);
    }
    Ok(reflects)
}

fn read_reflect(table: &Table<'_>) -> Result<Reflect, ConfigError> {
    table.expect(Reflect::KEYS)?;
    let interface = table.need("interface", "interface = \"eth0\"")?;
    let interface = interface.parse("an interface, as in \"eth0\"", ConfigErrorKind::Endpoint)?;
    let mut reflect = Reflect::new(interface);
    reflect.name = read_name(table)?;
    reflect.read_keys(table)?;
    reflect.check().map_err(|error| {
        let node = table.find(error.key());
        let kind = ConfigErrorKind::Reflect(error);
        node.map_or_else(|| table.fail(kind.clone()), |node| node.fail(kind.clone()))
    })?;
    Ok(reflect)
}

impl ReadKey<ConfigError> for Table<'_> {
    fn read<V: Value>(&self, key: &'static str, want: &'static str) -> Result<Option<V>, ConfigError> {
        let Some(node) = self.find(key) else { return Ok(None) };
        let refused = || node.refuse(want);
        let raw = node.raw().ok_or_else(refused)?;
        V::from_raw(&raw).map(Some).ok_or_else(refused)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
