//! What a protocol saw of a peer on one stream, told to the peer manager: good messages in lots, bad ones at once.

use trellis_primitives::NodeId;

use crate::frame::FrameError;
use crate::guard::{Conduct, Pattern};
use crate::network::NetworkHandle;

/// Good messages are told in lots of this many, so that counting costs a hot stream nothing.
const LOT_MESSAGES: u32 = 256;

/// Counts for one stream; what is left is told when it is dropped.
pub struct Witness {
    network: NetworkHandle,
    peer: NodeId,
    valid: u32,
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness").field("peer", &self.peer).field("valid", &self.valid).finish_non_exhaustive()
    }
}

impl Witness {
    /// For one stream of `peer`.
    #[must_use]
    pub const fn new(network: NetworkHandle, peer: NodeId) -> Self {
        Self { network, peer, valid: 0 }
    }

    /// A message decoded and verified.
    pub fn valid(&mut self) {
        self.valid = self.valid.saturating_add(1);
        if self.valid >= LOT_MESSAGES {
            self.tell();
        }
    }

    /// A message did not.
    pub fn invalid(&mut self, pattern: Pattern) {
        // What was good before counts before: the order must not make it worse.
        self.tell();
        self.network.report(self.peer, Conduct::Invalid { pattern });
    }

    /// A frame could not be read: the peer's fault, or only the end of the stream.
    pub fn failed(&mut self, error: &FrameError) {
        if let Some(pattern) = error.pattern() {
            self.invalid(pattern);
        }
    }

    fn tell(&mut self) {
        let messages = std::mem::take(&mut self.valid);
        if messages > 0 {
            self.network.report(self.peer, Conduct::Valid { messages });
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimNet;
    use std::sync::Arc;
    use trellis_primitives::{ManualClock, UnixMs};

    // row: NET-73
    #[tokio::test]
    async fn what_a_protocol_sees_is_counted_and_ten_bad_messages_end_the_connection() {
        let net = SimNet::new(1, Arc::new(ManualClock::new(UnixMs(1_000))));
        let (alice, bob) = (NodeId([1; 32]), NodeId([2; 32]));
        let (at_alice, at_bob) = (net.node(alice), net.node(bob));
        at_alice.dial(&SimNet::address(bob)).await.unwrap();
        let mut witness = Witness::new(at_bob.clone(), alice);
        (0..300).for_each(|_| witness.valid());
        witness.failed(&FrameError::End);
        drop(witness);
        let inputs = at_bob.guard().standing(alice).unwrap().inputs;
        assert_eq!((inputs.valid, inputs.invalid), (300, 0));
        let mut witness = Witness::new(at_bob.clone(), alice);
        for _ in 0..10 {
            assert_eq!(at_bob.peers().len(), 1);
            witness.failed(&FrameError::TooLarge { actual: 2, max: 1 });
        }
        assert!(at_bob.peers().is_empty(), "disconnected");
        let again = at_alice.dial(&SimNet::address(bob)).await;
        assert!(again.unwrap_err().to_string().contains("banned"), "and kept out");
    }
}
