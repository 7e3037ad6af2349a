//! Whole networks of real processes, and the outside clients that use them.
