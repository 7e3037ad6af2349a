//! A node that drops, refuses, reorganises and lies, and the client that copes; and the wrappers' bytes.

mod bytes;
mod node;
mod sending;
