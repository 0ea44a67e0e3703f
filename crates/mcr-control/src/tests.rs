//! The whole process against a small supervisor that speaks the real protocol over the real transport.

mod answers;
mod bare;
mod clients;
mod config;
mod documents;
mod http;
mod rights;
mod stage;
mod trace;
