//! A configuration on its way into the daemon: in parts, because messages are bounded, and all of it or nothing.

use serde::{Deserialize, Serialize};

use crate::{
    config::{Class, Config, HttpConfig, Reflect},
    rule::RuleSpec,
};

/// Tells one load from others that are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LoadId(pub u64);

/// A step of a load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadStep {
    /// The first.
    Begin {
        /// Whether what the configuration does not have is removed.
        replace: bool,
        /// What it says beside rules.
        settings: Settings,
    },
    /// Some of its rules.
    Part {
        /// In the order of the file.
        rules: Vec<RuleSpec>,
    },
    /// Everything was sent: check all of it, then make it so.
    Commit,
    /// Forget what was sent.
    Abort,
}

/// What a configuration says beside rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// As in [`Config`].
    pub workers: Option<u16>,
    /// As in [`Config`].
    pub allow_read: bool,
    /// As in [`Config`].
    pub http: Option<HttpConfig>,
    /// As in [`Config`].
    pub classes: Vec<Class>,
    /// As in [`Config`].
    pub reflects: Vec<Reflect>,
}

impl Settings {
    /// Takes a configuration apart.
    pub fn split(config: Config) -> (Self, Vec<RuleSpec>) {
        let Config { workers, allow_read, http, rules, classes, reflects } = config;
        (Self { workers, allow_read, http, classes, reflects }, rules)
    }

    /// Puts it together again.
    pub fn join(self, rules: Vec<RuleSpec>) -> Config {
        let Self { workers, allow_read, http, classes, reflects } = self;
        Config { workers, allow_read, http, rules, classes, reflects }
    }

    /// Takes over what `newer` says; what it does not say stays.
    pub fn merge(&mut self, newer: Self) {
        self.workers = newer.workers.or(self.workers);
        self.allow_read |= newer.allow_read;
        self.http = newer.http.or(self.http.take());
        for class in newer.classes {
            // A codepoint has one class: the newer file says which.
            self.classes.iter_mut().for_each(|known| known.dscp.retain(|dscp| !class.dscp.contains(dscp)));
            replace_or_push(&mut self.classes, class, |one, other| one.name == other.name);
        }
        for reflect in newer.reflects {
            let same = |one: &Reflect, other: &Reflect| {
                (one.interface, one.port) == (other.interface, other.port)
                    || (one.name.is_some() && one.name == other.name)
            };
            replace_or_push(&mut self.reflects, reflect, same);
        }
    }
}

/// What a load has changed, in rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// New ones.
    pub added: u32,
    /// Those that are other than before.
    pub changed: u32,
    /// Those that are gone.
    pub removed: u32,
    /// Those that were left alone.
    pub unchanged: u32,
    /// What takes effect only when the daemon is started again; one line each.
    pub notes: Vec<String>,
}

/// Puts `item` in the place of the first that is the same, and drops further ones.
fn replace_or_push<T>(items: &mut Vec<T>, item: T, same: impl Fn(&T, &T) -> bool) {
    let place = items.iter().position(|known| same(known, &item)).unwrap_or(items.len());
    items.retain(|known| !same(known, &item));
    items.insert(place.min(items.len()), item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse, to_toml};

    fn settings(text: &str) -> Settings {
        Settings::split(parse(text, "test").unwrap_or_else(|error| panic!("{error}"))).0
    }

    #[test]
    fn a_configuration_taken_apart_and_put_together_is_the_same() {
        let text = "workers = 2\n[[rule]]\ninput = \"239.1.1.1:5000@eth0\"\noutputs = [\"10.0.0.1:1\"]\n\n[[reflect]]\ninterface = \"eth0\"\n";
        let config = parse(text, "test").expect("good");
        let (settings, rules) = Settings::split(config.clone());
        assert_eq!(rules.len(), 1);
        assert_eq!(settings.join(rules), config);
    }

    #[test]
    fn what_is_merged_replaces_what_has_its_name_and_stays_a_configuration_that_can_be_read() {
        let mut known = settings(
            "workers = 2\n[[class]]\nname = \"a\"\npriority = 1\ndscp = [\"ef\", \"cs5\"]\n\n[[class]]\nname = \"b\"\npriority = 2\n\n[[reflect]]\nname = \"r\"\ninterface = \"eth0\"\n\n[[reflect]]\ninterface = \"eth1\"\n",
        );
        known.merge(settings(
            "others_may_read = true\n[http]\nlisten = \"[::1]:80\"\n[[class]]\nname = \"b\"\npriority = 3\ndscp = [\"ef\"]\n\n[[reflect]]\nname = \"r\"\ninterface = \"eth1\"\n",
        ));
        let text = to_toml(&known.clone().join(Vec::new()));
        assert_eq!(settings(&text), known, "{text}");
        assert_eq!(
            (known.workers, known.allow_read, known.classes.len(), known.reflects.len()),
            (Some(2), true, 2, 1)
        );
        assert!(known.http.is_some_and(|http| http.listen.port() == 80));
        assert_eq!((known.classes[0].dscp.len(), known.classes[1].priority), (1, 3));
    }
}
