//! Bytes that contracts and nodes see.

use alloy_primitives::LogData;
use alloy_sol_types::SolEvent;
use proptest::prelude::*;
use trellis_contracts::payment_channels::PaymentChannels as sol;
use trellis_crypto::AccountKey;
use trellis_primitives::{Address, B256, ChannelId, Wei};

use crate::fees::Fees;
use crate::transaction::{Envelope, sign};
use crate::{ChannelEvent, FeePolicy, Log, LogPlace, TxIntent, describe_revert};

fn log_of(event: &impl SolEvent) -> Log {
    let data: LogData = event.encode_log_data();
    Log { address: Address::ZERO, data, place: LogPlace { block: 1, index: 0, tx: B256::ZERO } }
}

#[test]
fn every_channel_event_is_read_from_its_log() {
    let id = B256::repeat_byte(4);
    let channel = ChannelId(id);
    let (payer, payee) = (Address::repeat_byte(1), Address::repeat_byte(2));
    let paid = sol::VoucherPaid { channelId: id, paid: 9, gross: 4, fee: 1 };
    let expected = ChannelEvent::Paid { channel, paid: Wei(9), gross: Wei(4), fee: Wei(1) };
    assert_eq!(ChannelEvent::from_log(&log_of(&paid)), Some(expected));
    let skipped = sol::VoucherSkipped { channelId: id, cumulativeAmount: 5, reason: 2 };
    let expected = ChannelEvent::Skipped { channel, cumulative: Wei(5), reason: 2 };
    assert_eq!(ChannelEvent::from_log(&log_of(&skipped)), Some(expected));
    let closing = sol::ChannelClosing { channelId: id, closingAt: 77 };
    assert_eq!(ChannelEvent::from_log(&log_of(&closing)), Some(ChannelEvent::Closing { channel, closing_at_s: 77 }));
    let closed = sol::ChannelClosed { channelId: id, paid: 3, returned: 2 };
    let expected = ChannelEvent::Closed { channel, paid: Wei(3), returned: Wei(2) };
    assert_eq!(ChannelEvent::from_log(&log_of(&closed)), Some(expected));
    let topped = sol::ChannelToppedUp { channelId: id, from: payer, amount: 1, deposit: 8 };
    let expected = ChannelEvent::ToppedUp { channel, deposit: Wei(8) };
    assert_eq!(ChannelEvent::from_log(&log_of(&topped)), Some(expected));
    let terms = sol::Terms {
        payee,
        payout: payee,
        signer: payer,
        token: Address::ZERO,
        challengePeriodSeconds: 10,
        expiry: 99,
        salt: B256::ZERO,
    };
    let opened = sol::ChannelOpened { channelId: id, payer, payee, terms, deposit: 6 };
    let expected = ChannelEvent::Opened { channel, payer, payee, deposit: Wei(6) };
    assert_eq!(ChannelEvent::from_log(&log_of(&opened)), Some(expected));
}

#[test]
fn a_revert_of_nobody_we_know_is_shown_as_its_first_bytes() {
    assert_eq!(describe_revert(&[1, 2, 3, 4, 5]), "0x0102030405");
}

/// EIP-1559 bytes for a fixed key.
#[test]
fn a_signed_transaction_is_typed_and_deterministic() {
    let key = AccountKey::from_bytes(&[7; 32]).unwrap();
    let fees = Fees { max_fee_wei: 3_000_000_000, priority_fee_wei: 1_000_000_000 };
    let envelope = Envelope { chain_id: 97_001, nonce: 5, gas_limit: 100_000, fees };
    let intent = TxIntent::call(Address::repeat_byte(0x22), vec![0xd0, 0xe3, 0x0d, 0xb0]);
    let (hash, raw) = sign(&intent, envelope, &key).unwrap();
    assert_eq!(hash, trellis_primitives::keccak256(&raw));
    assert_eq!(raw[0], 2);
    assert_eq!(sign(&intent, envelope, &key).unwrap().0, hash, "signing is deterministic");
}

proptest! {
    #[test]
    fn fees_stay_below_the_cap_and_a_raise_is_at_least_an_eighth(base in 0u128..2_000_000_000_000, tip in 0u128..5_000_000_000) {
        let policy = FeePolicy { max_fee_cap_wei: 500_000_000_000, priority_fee_wei: tip };
        let Ok(fees) = Fees::choose(&policy, base) else {
            prop_assert!(base + tip > policy.max_fee_cap_wei);
            return Ok(());
        };
        prop_assert!(fees.max_fee_wei <= policy.max_fee_cap_wei && fees.max_fee_wei >= base + tip);
        if let Some(raised) = fees.raised(&policy) {
            prop_assert!(raised.max_fee_wei <= policy.max_fee_cap_wei);
            prop_assert!(raised.max_fee_wei * 8 >= fees.max_fee_wei * 9);
            prop_assert!(raised.priority_fee_wei * 8 >= fees.priority_fee_wei * 9);
        }
    }
}
