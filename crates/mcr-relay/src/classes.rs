//! Traffic classes: which datagrams of a rule are in which, and how each is treated.
//!
//! A class is a lane of its own from the kernel on: a receiving socket that only its datagrams come through, so that others cannot
//! take its room. What is not here: opening such sockets, and draining them in order of priority.

use mcr_proto::{
    config::{Class, PRIORITY_MAX},
    endpoint::Rate,
    message::{ClassBy, InputClass},
    plan,
};

/// The number of a class; its name has it for as long as this list lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u16);

/// What comes through one receiving socket, and how it is treated. Two that differ in anything are two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The class; none for datagrams that are in none.
    pub class: Option<ClassId>,
    /// The codepoints of its datagrams: bit n is codepoint n.
    pub codepoints: u64,
    /// 0 is served first.
    pub priority: u8,
    /// Cap on what is taken.
    pub rate: Option<Rate>,
    /// Frames that may wait.
    pub depth: Option<u32>,
}

const ALL: u64 = u64::MAX;

impl Lane {
    /// Of all datagrams, where there are no classes.
    pub const NONE: Self =
        Self { class: None, codepoints: ALL, priority: PRIORITY_MAX, rate: None, depth: None };

    /// What put its datagrams into the class.
    pub fn by(&self) -> ClassBy {
        if self.codepoints == ALL { ClassBy::Rule } else { ClassBy::Dscp }
    }

    /// The class and what put its datagrams there, if it is one.
    pub fn classed(&self) -> Option<(ClassId, ClassBy)> {
        self.class.map(|class| (class, self.by()))
    }

    /// As a worker needs to know it.
    pub fn of_worker(&self) -> plan::Lane {
        plan::Lane { priority: self.priority, cap: self.class.map(|class| class.0).zip(self.rate) }
    }
}

/// The classes there are.
#[derive(Debug, Default)]
pub struct Classes {
    /// By id: every name there ever was.
    names: Vec<String>,
    defined: Vec<(ClassId, Class)>,
}

impl Classes {
    /// These and no others from now on. Whether that changes anything.
    pub fn define(&mut self, classes: &[Class]) -> bool {
        if self.defined.iter().map(|(_, class)| class).eq(classes) {
            return false;
        }
        let names = &mut self.names;
        let mut id = |name: &String| {
            let known = names.iter().position(|known| known == name);
            let index = known.unwrap_or_else(|| {
                names.push(name.clone());
                names.len() - 1
            });
            // Past this many, which no host comes to, counters are shared.
            ClassId(u16::try_from(index).unwrap_or(u16::MAX))
        };
        self.defined = classes.iter().map(|class| (id(&class.name), class.clone())).collect();
        true
    }

    /// What an input of a class is called.
    pub fn input_class(&self, class: ClassId, by: ClassBy) -> InputClass {
        InputClass { name: self.names.get(usize::from(class.0)).cloned().unwrap_or_default(), by }
    }

    /// Whether datagrams are in classes by their codepoint.
    pub(crate) fn are_by_dscp(&self) -> bool {
        self.defined.iter().any(|(_, class)| !class.dscp.is_empty())
    }

    /// The lane of all datagrams of a rule with this class.
    pub fn of_rule(&self, name: &str) -> Lane {
        self.named(name).map_or(Lane::NONE, |(id, class)| lane(*id, class, ALL))
    }

    /// The lanes of a rule without a class: one for each class that has codepoints, and one for the others.
    pub(crate) fn by_dscp(&self) -> Vec<Lane> {
        let mut others = ALL;
        let mut lanes = Vec::new();
        for (id, class) in &self.defined {
            let codepoints = class.dscp.iter().fold(0, |set, one| set | 1 << one.value()) & others;
            others &= !codepoints;
            if codepoints != 0 {
                lanes.push(lane(*id, class, codepoints));
            }
        }
        if others != 0 {
            lanes.push(Lane { codepoints: others, ..Lane::NONE });
        }
        lanes
    }

    /// The priority of a rule's copies in this host's queues (SO_PRIORITY): in the order in which Linux's own queueing
    /// disciplines (pfifo_fast, prio) rank these numbers, which is not that of the numbers.
    pub(crate) fn send_priority(&self, rule_class: Option<&str>) -> u8 {
        match rule_class.and_then(|name| self.named(name)).map(|(_, class)| class.priority) {
            Some(0) => 7,
            Some(1) => 6,
            Some(2..PRIORITY_MAX) => 4,
            _ => 0,
        }
    }

    fn named(&self, name: &str) -> Option<&(ClassId, Class)> {
        self.defined.iter().find(|(_, class)| class.name == name)
    }
}

fn lane(id: ClassId, class: &Class, codepoints: u64) -> Lane {
    let Class { priority, rate, depth, .. } = class;
    Lane { class: Some(id), codepoints, priority: *priority, rate: *rate, depth: *depth }
}
