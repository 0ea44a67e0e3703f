//! `mcrd reflect`: options in, statistics out.

mod nic;
mod options;
mod output;

use std::time::Duration;

use mcr_supervisor::reflect::{Occasion, ReflectError, ReflectOptions};

use self::output::Output;
use crate::{args::ReflectArgs, exit::Failure, log, user};

/// Exit code of an interface that does not exist.
const NOT_FOUND: u8 = 4;

pub(crate) fn reflect(args: &ReflectArgs) -> Result<(), Failure> {
    if let Some(interface) = args.nic()? {
        return nic::report(&interface);
    }
    let reflect = args.reflect()?;
    let ids = user::ids(args.user.as_deref())?;
    let mut output = Output::new(args.format(), &reflect);
    log::start(args.log_level(), args.log_format);
    let interval = Duration::from_secs(u64::from(args.stats_interval));
    let options = ReflectOptions { reflect, ids, interval };
    let mut tell = |occasion: Occasion, report: &_| output.tell(occasion, report);
    mcr_supervisor::reflect::run(options, &mut tell).map_err(|error| failure(&error))
}

fn failure(error: &ReflectError) -> Failure {
    let message = format!("reflect: {error}");
    match error {
        ReflectError::Config(_) => Failure::usage(message),
        ReflectError::NoInterface { .. } => Failure::with_code(NOT_FOUND, message),
        ReflectError::NotPermitted(_) => Failure::not_permitted(message),
        _ => Failure::failed(message),
    }
}
