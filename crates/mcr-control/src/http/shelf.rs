//! Documents that many ask for, made once a period: whoever asks meanwhile gets the same, and whoever asks while one is made
//! waits for that. So scrapes and pages, however many, cost what one of each costs.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use super::Document;

/// What lies on the shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Metrics,
    Readiness,
    Rules,
    Stats,
    Workers,
    Interfaces,
}

const KINDS: usize = 6;
/// Documents of single rules that lie here; more of them are more rules than pages show open.
const RULES_MAX: usize = 64;

type Place = Mutex<Option<Kept>>;

#[derive(Debug)]
struct Kept {
    made: Instant,
    /// Of which time between two changes.
    age: u64,
    document: Document,
}

#[derive(Debug)]
pub(super) struct Shelf {
    fresh: Duration,
    age: Cell<u64>,
    places: [Place; KINDS],
    rules: RefCell<HashMap<String, Rc<Place>>>,
}

impl Shelf {
    pub(super) fn new(fresh: Duration) -> Self {
        Self { fresh, age: Cell::new(0), places: Default::default(), rules: RefCell::default() }
    }

    /// Nothing that lies here is as things are: they were changed.
    pub(super) fn clear(&self) {
        self.age.set(self.age.get() + 1);
    }

    /// What lies here if it is fresh, else what is made now. A failure is kept as long as anything else.
    pub(super) async fn get(&self, kind: Kind, make: impl Future<Output = Document>) -> Document {
        self.kept(&self.places[kind as usize], make).await
    }

    /// The same of the document of one rule.
    pub(super) async fn get_of(&self, rule: &str, make: impl Future<Output = Document>) -> Document {
        let place = {
            let mut rules = self.rules.borrow_mut();
            if rules.len() >= RULES_MAX && !rules.contains_key(rule) {
                rules.clear();
            }
            Rc::clone(rules.entry(rule.to_owned()).or_default())
        };
        self.kept(&place, make).await
    }

    async fn kept(&self, place: &Place, make: impl Future<Output = Document>) -> Document {
        let mut place = place.lock().await;
        if let Some(kept) = &*place
            && kept.age == self.age.get()
            && kept.made.elapsed() < self.fresh
        {
            return kept.document.clone();
        }
        let age = self.age.get();
        let document = make.await;
        *place = Some(Kept { made: Instant::now(), age, document: document.clone() });
        document
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use hyper::StatusCode;
    use tokio::task::LocalSet;

    use super::*;

    #[test]
    fn many_who_ask_at_once_get_one_document_and_a_change_makes_another() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let shelf = Rc::new(Shelf::new(Duration::from_secs(3600)));
            let made = Rc::new(Cell::new(0));
            let ask = || {
                let (shelf, made) = (Rc::clone(&shelf), Rc::clone(&made));
                async move {
                    let make = async {
                        tokio::task::yield_now().await;
                        made.set(made.get() + 1);
                        Document::plain(StatusCode::OK, made.get().to_string())
                    };
                    shelf.get(Kind::Stats, make).await.text
                }
            };
            let asked: Vec<_> = (0..10).map(|_| tokio::task::spawn_local(ask())).collect();
            for one in asked {
                assert_eq!(one.await.unwrap(), "1\n");
            }
            shelf.clear();
            assert_eq!(ask().await, "2\n");
            assert_eq!(ask().await, "2\n");
            let of = async |rule: &str| {
                shelf.get_of(rule, async { Document::plain(StatusCode::OK, rule.to_owned()) }).await.text
            };
            assert_eq!(of("a").await, "a\n");
            assert_eq!(of("b").await, "b\n");
            for rule in 0..3 * RULES_MAX {
                of(&rule.to_string()).await;
            }
            assert!(shelf.rules.borrow().len() <= RULES_MAX);
        });
    }

    #[test]
    fn what_is_not_fresh_any_more_is_made_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let shelf = Shelf::new(Duration::ZERO);
            for text in ["a", "b"] {
                let got = shelf.get(Kind::Metrics, async { Document::plain(StatusCode::OK, text) }).await;
                assert_eq!(got.text, format!("{text}\n"));
            }
        });
    }
}
