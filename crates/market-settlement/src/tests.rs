//! The real contracts in an in-process EVM, honest parties and liars.

mod adversaries;
mod aggregator;
mod evm;
mod gas;
mod large;
mod ledger;
mod pure;
mod tower;
mod world;
