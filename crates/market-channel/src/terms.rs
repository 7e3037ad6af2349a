//! What a channel is, as the chain has it, and whether a provider may still serve on it.

use serde::{Deserialize, Serialize};
use trellis_market_receipt::eip712::{Domain, Words};
use trellis_primitives::{Address, B256, ChannelId, UnixMs, Wei};

/// A provider stops this many challenge periods before the channel's expiry.
pub const EXPIRY_MARGIN_CHALLENGES: u64 = 2;
/// With the chain out of sight a provider stops when this part of the challenge period is left: enough for one redeem.
pub const UNSEEN_MARGIN_DIVISOR: u64 = 4;

/// What is fixed when a channel opens. All of it is in the channel's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChannelTerms {
    /// Who deposits.
    pub payer: Address,
    /// Who may close at once, and whose account signs receipts.
    pub payee: Address,
    /// Where payouts go.
    pub payout: Address,
    /// The key that signs vouchers.
    pub signer: Address,
    /// The ERC-20 token.
    pub token: Address,
    /// How long the payer waits to close alone, in seconds.
    pub challenge_seconds: u32,
    /// When the payer may take the rest, Unix seconds.
    pub expiry_seconds: u64,
    /// Makes channels between the same parties differ.
    pub salt: B256,
}

impl ChannelTerms {
    /// The channel's id on this contract: the hash of ten words (`contracts/README.md`, "Channel id").
    #[must_use]
    pub fn id(&self, channels: &Domain) -> ChannelId {
        let mut words = Words::default();
        for address in [self.payer, self.payee, self.payout, self.signer, self.token] {
            words.address(address);
        }
        words.uint(u128::from(self.challenge_seconds));
        words.uint(u128::from(self.expiry_seconds));
        words.word(self.salt);
        words.uint(u128::from(channels.chain_id));
        words.address(channels.contract);
        ChannelId(words.hash())
    }
}

/// What a channel is doing on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelPhase {
    /// Usable.
    Open,
    /// The payer closes alone; from `closing_at_seconds` on it can finish.
    Closing {
        /// Unix seconds.
        closing_at_seconds: u64,
    },
    /// Paid out and gone.
    Closed,
}

/// A channel as it was seen on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChannelView {
    /// Its id.
    pub id: ChannelId,
    /// What is fixed.
    pub terms: ChannelTerms,
    /// What it does.
    pub phase: ChannelPhase,
    /// The deposit.
    pub deposit: Wei,
    /// What was paid out, gross.
    pub paid: Wei,
    /// When the chain was looked at.
    pub seen_at: UnixMs,
}

/// Why a provider does not serve on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServeFault {
    /// Pays somebody else.
    #[error("the channel pays {actual}, expected {expected}")]
    Payee {
        /// The provider's account.
        expected: Address,
        /// The channel's payee.
        actual: Address,
    },
    /// Another token.
    #[error("the channel is in token {actual}, expected {expected}")]
    Token {
        /// The token that the provider takes.
        expected: Address,
        /// The channel's.
        actual: Address,
    },
    /// The payer has begun to close, or it is closed.
    #[error("the channel is {phase:?}")]
    Phase {
        /// What it does.
        phase: ChannelPhase,
    },
    /// The challenge period is too short to react in.
    #[error("the challenge period is {actual} s, at least {min} s are needed")]
    Challenge {
        /// The provider's minimum.
        min: u32,
        /// The channel's.
        actual: u32,
    },
    /// The deposit is too small to begin.
    #[error("the deposit is {actual}, at least {min} is needed")]
    Deposit {
        /// The provider's minimum.
        min: Wei,
        /// The channel's.
        actual: Wei,
    },
    /// Too near to its end.
    #[error("the channel expires at {expiry_seconds}, service stopped at {stop_seconds}, it is {now_seconds}")]
    NearExpiry {
        /// The channel's expiry, Unix seconds.
        expiry_seconds: u64,
        /// The last moment of service, Unix seconds.
        stop_seconds: u64,
        /// The time, Unix seconds.
        now_seconds: u64,
    },
    /// The chain was not seen for so long that the payer could have closed unnoticed.
    #[error("the chain was last seen at {seen_at:?}, service stopped at {stop_at:?}, it is {now:?}")]
    ChainUnseen {
        /// The last view.
        seen_at: UnixMs,
        /// The last moment of service.
        stop_at: UnixMs,
        /// The time.
        now: UnixMs,
    },
}

impl ChannelView {
    /// Whether a provider may deliver on this channel at this time.
    ///
    /// # Errors
    /// [`ServeFault`] names the cause.
    pub fn may_serve(&self, payee: Address, token: Address, now: UnixMs) -> Result<(), ServeFault> {
        if self.terms.payee != payee {
            return Err(ServeFault::Payee { expected: payee, actual: self.terms.payee });
        }
        if self.terms.token != token {
            return Err(ServeFault::Token { expected: token, actual: self.terms.token });
        }
        if self.phase != ChannelPhase::Open {
            return Err(ServeFault::Phase { phase: self.phase });
        }
        let (stop_seconds, now_seconds) = (self.stop_seconds(), now.as_secs());
        if now_seconds >= stop_seconds {
            let expiry_seconds = self.terms.expiry_seconds;
            return Err(ServeFault::NearExpiry { expiry_seconds, stop_seconds, now_seconds });
        }
        let stop_at = self.unseen_stop_at();
        if now >= stop_at {
            return Err(ServeFault::ChainUnseen { seen_at: self.seen_at, stop_at, now });
        }
        Ok(())
    }

    /// The last moment of service before the expiry, Unix seconds.
    #[must_use]
    pub fn stop_seconds(&self) -> u64 {
        let margin = u64::from(self.terms.challenge_seconds).saturating_mul(EXPIRY_MARGIN_CHALLENGES);
        self.terms.expiry_seconds.saturating_sub(margin)
    }

    /// The last moment of service if the chain stays out of sight: last view + challenge period − margin.
    #[must_use]
    pub fn unseen_stop_at(&self) -> UnixMs {
        let challenge_ms = u64::from(self.terms.challenge_seconds).saturating_mul(1_000);
        let margin_ms = challenge_ms.checked_div(UNSEEN_MARGIN_DIVISOR).unwrap_or(challenge_ms);
        self.seen_at.plus_ms(challenge_ms.saturating_sub(margin_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> ChannelView {
        let terms = ChannelTerms {
            payer: Address::repeat_byte(1),
            payee: Address::repeat_byte(2),
            payout: Address::repeat_byte(3),
            signer: Address::repeat_byte(4),
            token: Address::repeat_byte(5),
            challenge_seconds: 100,
            expiry_seconds: 10_000,
            salt: B256::repeat_byte(6),
        };
        let domain = Domain { chain_id: 1, contract: Address::repeat_byte(7) };
        let id = terms.id(&domain);
        let seen_at = UnixMs(9_000_000);
        ChannelView { id, terms, phase: ChannelPhase::Open, deposit: Wei(10), paid: Wei(0), seen_at }
    }

    fn at(view: &ChannelView, seconds: u64) -> Result<(), ServeFault> {
        view.may_serve(Address::repeat_byte(2), Address::repeat_byte(5), UnixMs(seconds * 1_000))
    }

    // row: MKT-31
    #[test]
    fn a_provider_stops_two_challenge_periods_before_expiry() {
        let mut near = view();
        near.seen_at = UnixMs(9_799_000);
        assert_eq!(at(&near, 9_799), Ok(()));
        near.seen_at = UnixMs(9_800_000);
        assert!(matches!(at(&near, 9_800), Err(ServeFault::NearExpiry { stop_seconds: 9_800, .. })));
    }

    // row: MKT-33
    #[test]
    fn a_provider_serves_through_an_outage_but_not_past_the_challenge_period() {
        let lost = view();
        assert_eq!(at(&lost, 9_074), Ok(()));
        assert!(matches!(at(&lost, 9_075), Err(ServeFault::ChainUnseen { .. })));
    }

    #[test]
    fn a_closing_channel_or_another_payee_or_token_is_refused() {
        let mut closing = view();
        closing.phase = ChannelPhase::Closing { closing_at_seconds: 9_100 };
        assert!(matches!(at(&closing, 9_001), Err(ServeFault::Phase { .. })));
        let open = view();
        let now = UnixMs(9_000_000);
        let other = open.may_serve(Address::ZERO, Address::repeat_byte(5), now);
        assert!(matches!(other, Err(ServeFault::Payee { .. })));
        let coin = open.may_serve(Address::repeat_byte(2), Address::ZERO, now);
        assert!(matches!(coin, Err(ServeFault::Token { .. })));
    }

    #[test]
    fn every_term_is_in_the_id() {
        let base = view();
        let domain = Domain { chain_id: 1, contract: Address::repeat_byte(7) };
        let mut changed = base.terms;
        changed.signer = Address::ZERO;
        assert_ne!(changed.id(&domain), base.id);
        assert_ne!(base.terms.id(&Domain { chain_id: 2, ..domain }), base.id);
    }
}
