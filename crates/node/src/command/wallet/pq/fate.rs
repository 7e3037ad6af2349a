//! What becomes of signed calls.
//!
//! Anybody may bring them, so the fate of our own transaction says little about theirs: another's may be in a block already,
//! and then ours fails. The account's nonce says whether they can still happen; its event says in which transaction a nonce
//! was used, and that transaction's data whether it was with these calls.

use crate::failure::Failure;
use alloy_sol_types::{SolCall, SolEvent};
use std::path::Path;
use trellis_contracts::accounts::Execute;
use trellis_contracts::smart_account::SmartAccount as abi;
use trellis_market_chain::{ChainClient, ChainError, LogFilter};
use trellis_primitives::{Address, B256, U256, UnixMs};

/// Blocks back from the newest one in which the use of a nonce is searched.
const SEARCH_BLOCKS_MAX: u64 = 250_000;
/// Blocks of one question.
const QUESTION_BLOCKS: u64 = 5_000;
/// Seconds by which the newest block's time may differ from this machine's clock. A chain that is far from it is not the
/// chain of now, or lies.
const APART_S_MAX: u64 = 300;
/// Seconds by which a deadline may follow a block's time that is ahead of this machine's clock.
const AHEAD_S_MAX: u64 = 60;

/// What can still become of signed calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The chain can take them.
    Open,
    /// Others must come first.
    Early,
    /// Their deadline is over; they can never happen.
    Expired,
    /// Their nonce was used, by them or by others.
    Used,
}

/// Where calls stand with an account whose next nonce is this, at a Unix second.
pub const fn standing(execute: &Execute, next_nonce: u64, now_s: u64) -> Standing {
    if next_nonce > execute.nonce {
        Standing::Used
    } else if now_s > execute.deadline {
        Standing::Expired
    } else if next_nonce < execute.nonce {
        Standing::Early
    } else {
        Standing::Open
    }
}

/// The transaction in which an account's nonce was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The transaction.
    pub tx: B256,
    /// Its block.
    pub block: u64,
    /// Who brought the calls and was paid their fee.
    pub relayer: Address,
    /// Whether it was with the calls that were asked about; unknown where a contract stands between.
    pub same: Option<bool>,
}

/// Searches backwards for the use of a nonce; none where it is too long ago.
pub async fn use_of(client: &dyn ChainClient, account: Address, execute: &Execute) -> Result<Option<Use>, ChainError> {
    let head = client.head().await?.number;
    let first = head.saturating_sub(SEARCH_BLOCKS_MAX);
    let nonce = B256::from(U256::from(execute.nonce));
    let mut to = head;
    loop {
        let from = to.saturating_sub(QUESTION_BLOCKS.saturating_sub(1)).max(first);
        let topics = vec![vec![abi::Executed::SIGNATURE_HASH], vec![nonce]];
        let filter = LogFilter { addresses: vec![account], topics, from_block: from, to_block: to };
        for log in client.logs(filter).await? {
            let event = abi::Executed::decode_raw_log(log.data.topics().iter().copied(), &log.data.data);
            let Some(event) = event.ok().filter(|event| log.address == account && event.nonce == execute.nonce) else {
                continue;
            };
            let data = client.transaction_data(log.place.tx).await?;
            let same = data.and_then(|data| same(execute, &data));
            return Ok(Some(Use { tx: log.place.tx, block: log.place.block, relayer: event.relayer, same }));
        }
        if from <= first {
            return Ok(None);
        }
        to = from.saturating_sub(1);
    }
}

/// Whether a transaction's data are these calls on these terms, whatever the signature; none where they are no call of an
/// account at all.
fn same(execute: &Execute, data: &[u8]) -> Option<bool> {
    let found = abi::executeSignedCall::abi_decode(data).ok()?;
    Some(execute.call_data(found.signature.clone()) == found.abi_encode())
}

/// Why calls did not happen, though a transaction used their nonce.
pub fn displaced(account: Address, nonce: u64, found: Option<&Use>) -> Failure {
    match found {
        Some(Use { tx, same: Some(_), .. }) => {
            Failure::new(format!("another call of {account} took the nonce {nonce}, in {tx}; these never happen"))
                .hint("look at what it did; sign these anew if they are wanted still")
        }
        Some(Use { tx, relayer, .. }) => Failure::new(format!(
            "the nonce {nonce} of {account} was used in {tx}, brought by the contract {relayer}: perhaps by these calls"
        ))
        .hint("look at what that transaction did before you sign anew, or both may be paid"),
        None => Failure::new(format!(
            "the nonce {nonce} of {account} was used, not in the last {SEARCH_BLOCKS_MAX} blocks: perhaps by these calls"
        ))
        .hint("look for the account's event Executed in an explorer before you sign anew, or both may be paid"),
    }
}

/// Why calls did not happen yet, and whether they still can. `standing`: none where the chain did not say; `file`: where they
/// are kept, none where that is known.
pub fn undone(
    error: &ChainError,
    execute: &Execute,
    standing: Option<Standing>,
    relayer: Address,
    file: Option<&Path>,
) -> Failure {
    let failure = match error {
        ChainError::InsufficientFunds { .. } => Failure::key_or_funds(format!("{relayer} cannot pay the gas")),
        ChainError::Reverted { .. } | ChainError::Failed { .. } => {
            Failure::new(format!("the account refuses the calls: {error}"))
        }
        other => Failure::new(other.to_string()),
    };
    if standing == Some(Standing::Expired) {
        return failure.hint("the deadline of the signed calls is over, they never happen; sign anew");
    }
    let deadline = time(execute.deadline);
    let file = file.map_or_else(|| "FILE".to_owned(), |file| file.display().to_string());
    let relay = format!("`trellis wallet pq relay {file}`");
    if matches!(error, ChainError::InsufficientFunds { .. }) {
        let pay = "fund it, or let another account pay with --relay-key FILE";
        return failure.hint(format!("{pay}: {relay} brings the signed calls until {deadline}"));
    }
    failure.hint(format!(
        "the signed calls are good until {deadline}, for anybody: do not sign anew before; {relay} brings them, or says who did"
    ))
}

/// Why a file of signed calls cannot be brought; none where it can.
pub fn unfit(execute: &Execute, standing: Standing, next_nonce: u64, relayer: Address) -> Option<Failure> {
    match standing {
        Standing::Early => Some(
            Failure::new(format!("the account's next nonce is {next_nonce}, these calls have {}", execute.nonce))
                .hint("bring first what was signed before them"),
        ),
        Standing::Expired => {
            let deadline = time(execute.deadline);
            Some(Failure::new(format!("the calls were good until {deadline}; they never happen")).hint("sign anew"))
        }
        Standing::Open if !execute.relayer.is_zero() && execute.relayer != relayer => {
            let named = execute.relayer;
            Some(
                Failure::usage(format!("only {named} may bring these calls, not {relayer}"))
                    .hint("name its key with --relay-key FILE"),
            )
        }
        Standing::Open | Standing::Used => None,
    }
}

/// The deadline of what is signed now: a chain's answer moves it by a minute at most.
pub fn deadline(head_s: u64, clock_s: u64, within_s: u32) -> Result<u64, Failure> {
    let apart = head_s.abs_diff(clock_s);
    if apart > APART_S_MAX {
        return Err(Failure::new(format!(
            "the newest block is of {}, the clock here shows {}",
            time(head_s),
            time(clock_s)
        ))
        .hint("wait until the node has caught up, set the clock, or ask another node with --rpc"));
    }
    Ok(head_s.min(clock_s.saturating_add(AHEAD_S_MAX)).saturating_add(u64::from(within_s)))
}

/// A Unix second for a person.
pub fn time(second: u64) -> String {
    UnixMs(second.saturating_mul(1_000)).to_rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_contracts::accounts::Call;
    use trellis_primitives::Bytes;

    fn execute() -> Execute {
        let call = Call { target: Address::repeat_byte(1), value: U256::from(7), data: Bytes::from_static(&[9]) };
        let (relayer, fee, gas) = (Address::ZERO, U256::from(2), U256::ZERO);
        Execute { calls: vec![call], nonce: 3, deadline: 1_000, relayer, fee, gas }
    }

    fn used(same: Option<bool>) -> Use {
        Use { tx: B256::repeat_byte(4), block: 5, relayer: Address::repeat_byte(6), same }
    }

    // row: CHN-21
    #[test]
    fn a_used_nonce_counts_before_everything_and_a_deadline_before_an_order() {
        assert_eq!(standing(&execute(), 3, 1_000), Standing::Open, "the deadline is the last good second");
        assert_eq!(standing(&execute(), 3, 1_001), Standing::Expired);
        assert_eq!(standing(&execute(), 2, 1_000), Standing::Early);
        assert_eq!(standing(&execute(), 2, 1_001), Standing::Expired);
        assert_eq!(standing(&execute(), 4, 1_001), Standing::Used);
    }

    // row: CHN-21
    #[test]
    fn calls_are_known_again_by_their_terms_and_not_by_their_signature() {
        let ours = execute();
        assert_eq!(same(&ours, &ours.call_data(Bytes::from_static(b"one"))), Some(true));
        assert_eq!(same(&ours, &ours.call_data(Bytes::from_static(b"another"))), Some(true));
        let mut dearer = execute();
        dearer.calls[0].value = U256::from(8);
        let mut later = execute();
        later.deadline = 2_000;
        for other in [dearer, later] {
            assert_eq!(same(&ours, &other.call_data(Bytes::from_static(b"one"))), Some(false));
        }
        assert_eq!(same(&ours, b"a contract that brings the calls of many"), None);
        assert_eq!(same(&ours, b""), None);
    }

    // row: CHN-21
    #[test]
    fn nobody_is_told_to_sign_anew_while_the_calls_may_have_happened() {
        let shown = |found: Option<&Use>| displaced(Address::repeat_byte(8), 3, found).to_string();
        assert!(shown(Some(&used(Some(false)))).contains("another call"));
        for unclear in [shown(Some(&used(None))), shown(None)] {
            assert!(
                unclear.contains("perhaps by these calls") && unclear.contains("before you sign anew"),
                "{unclear}"
            );
        }
    }

    // row: CHN-21
    #[test]
    fn after_an_error_the_calls_are_said_to_be_good_until_their_deadline_and_dead_after_it() {
        let relayer = Address::repeat_byte(6);
        let slow = ChainError::Timeout { what: "the transaction", waited_ms: 60_000 };
        let poor = ChainError::InsufficientFunds { message: "none".into() };
        let refused = ChainError::Reverted { reason: "CallFailed".into(), data: Bytes::new() };
        let file = Path::new("kept.json");
        for error in [&slow, &poor, &refused] {
            for standing in [Some(Standing::Open), None] {
                let shown = undone(error, &execute(), standing, relayer, Some(file)).to_string();
                assert!(shown.contains("1970-01-01T00:16:40") && shown.contains("pq relay kept.json"), "{shown}");
                assert!(!shown.contains("; sign anew"), "{shown}");
            }
            let shown = undone(error, &execute(), Some(Standing::Expired), relayer, Some(file)).to_string();
            assert!(shown.contains("never happen; sign anew"), "{shown}");
        }
        let shown = undone(&slow, &execute(), Some(Standing::Open), relayer, Some(file)).to_string();
        assert!(shown.contains("do not sign anew before"), "{shown}");
    }

    // row: CHN-21
    #[test]
    fn calls_that_the_chain_would_refuse_are_refused_before_anything_is_paid() {
        let relayer = Address::repeat_byte(6);
        assert!(unfit(&execute(), Standing::Open, 3, relayer).is_none());
        assert!(unfit(&execute(), Standing::Early, 2, relayer).is_some());
        assert!(unfit(&execute(), Standing::Expired, 3, relayer).is_some());
        let named = |relayer| Execute { relayer, ..execute() };
        assert!(unfit(&named(relayer), Standing::Open, 3, relayer).is_none());
        assert!(unfit(&named(Address::repeat_byte(7)), Standing::Open, 3, relayer).is_some());
    }

    // row: CHN-21
    #[test]
    fn a_chain_moves_a_deadline_by_a_minute_at_most() {
        assert_eq!(deadline(10_000, 10_000, 600).ok(), Some(10_600));
        assert_eq!(deadline(9_900, 10_000, 600).ok(), Some(10_500), "a late chain's own time counts");
        assert_eq!(deadline(10_300, 10_000, 600).ok(), Some(10_660), "a chain ahead is not followed");
        assert!(deadline(10_301, 10_000, 600).is_err());
        assert!(deadline(9_699, 10_000, 600).is_err());
        assert!(deadline(u64::MAX, 10_000, 600).is_err());
    }
}
