//! Random scenarios: the engine and the model say the same.

use proptest::prelude::*;

use crate::{model::check, scenario::Scenario};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_relays_what_a_slow_model_relays(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        check(&Scenario::from_bytes(&bytes));
    }
}
