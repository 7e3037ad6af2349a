//! What a transaction must pay before it runs: intrinsic gas and the calldata floor (EIP-2, 2028, 2930, 3860, 7623, 7702).

use alloy_consensus::Transaction;
use trellis_primitives::TxEnvelope;

/// Bytes of creation code at most (EIP-3860).
pub const INITCODE_BYTES_MAX: usize = 49_152;

const TX_GAS: u64 = 21_000;
const CREATE_GAS: u64 = 32_000;
const INITCODE_WORD_GAS: u64 = 2;
const TOKEN_GAS: u64 = 4;
const TOKENS_PER_NONZERO_BYTE: u64 = 4;
const FLOOR_TOKEN_GAS: u64 = 10;
const ACCESS_ADDRESS_GAS: u64 = 2_400;
const ACCESS_SLOT_GAS: u64 = 1_900;
const AUTHORIZATION_GAS: u64 = 25_000;

/// The two lower bounds of a transaction's gas limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntrinsicGas {
    /// Charged before the first instruction.
    pub initial: u64,
    /// The least that the transaction pays in the end, whatever it does (EIP-7623).
    pub floor: u64,
}

fn saturating_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Both bounds of one transaction.
#[must_use]
pub fn intrinsic_gas(tx: &TxEnvelope) -> IntrinsicGas {
    let input = tx.input();
    let length = saturating_u64(input.len());
    let zeros = saturating_u64(input.iter().filter(|byte| **byte == 0).count());
    let tokens = length.saturating_sub(zeros).saturating_mul(TOKENS_PER_NONZERO_BYTE).saturating_add(zeros);

    let mut initial = TX_GAS.saturating_add(tokens.saturating_mul(TOKEN_GAS));
    if tx.is_create() {
        let words = length.div_ceil(32);
        initial = initial.saturating_add(CREATE_GAS).saturating_add(words.saturating_mul(INITCODE_WORD_GAS));
    }
    if let Some(list) = tx.access_list() {
        let slots = list.0.iter().map(|item| saturating_u64(item.storage_keys.len())).fold(0, u64::saturating_add);
        initial = initial
            .saturating_add(saturating_u64(list.0.len()).saturating_mul(ACCESS_ADDRESS_GAS))
            .saturating_add(slots.saturating_mul(ACCESS_SLOT_GAS));
    }
    if let Some(list) = tx.authorization_list() {
        initial = initial.saturating_add(saturating_u64(list.len()).saturating_mul(AUTHORIZATION_GAS));
    }
    IntrinsicGas { initial, floor: TX_GAS.saturating_add(tokens.saturating_mul(FLOOR_TOKEN_GAS)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_consensus::{SignableTransaction, TxEip1559, TxEip7702};
    use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
    use proptest::prelude::*;
    use revm::context_interface::cfg::gas::calculate_initial_tx_gas;
    use revm::primitives::hardfork::SpecId;

    fn signature() -> Signature {
        Signature::new(U256::from(1), U256::from(1), false)
    }

    fn access(addresses: usize, slots: usize) -> alloy_eips::eip2930::AccessList {
        use alloy_eips::eip2930::{AccessList, AccessListItem};
        AccessList(
            (0..addresses)
                .map(|_| AccessListItem { address: Address::ZERO, storage_keys: vec![B256::ZERO; slots] })
                .collect(),
        )
    }

    proptest! {
        #[test]
        fn intrinsic_gas_is_what_the_evm_charges(
            input in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..2_000),
            create in any::<bool>(),
            addresses in 0usize..4,
            slots in 0usize..4,
            authorizations in 0usize..3,
        ) {
            let input = Bytes::from(input);
            let (tx, is_create): (TxEnvelope, bool) = if authorizations == 0 {
                let to = if create { TxKind::Create } else { TxKind::Call(Address::ZERO) };
                let tx = TxEip1559 { to, input: input.clone(), access_list: access(addresses, slots), ..Default::default() };
                (tx.into_signed(signature()).into(), create)
            } else {
                use alloy_eips::eip7702::{Authorization, SignedAuthorization};
                let one = SignedAuthorization::new_unchecked(
                    Authorization { chain_id: U256::ZERO, address: Address::ZERO, nonce: 0 }, 0, U256::from(1), U256::from(1));
                let tx = TxEip7702 {
                    input: input.clone(),
                    access_list: access(addresses, slots),
                    authorization_list: vec![one; authorizations],
                    ..Default::default()
                };
                (tx.into_signed(signature()).into(), false)
            };
            let expected = calculate_initial_tx_gas(
                SpecId::OSAKA, &input, is_create, addresses as u64, (addresses * slots) as u64, authorizations as u64, None);
            let got = intrinsic_gas(&tx);
            prop_assert_eq!(got.initial, expected.initial_regular_gas + expected.initial_state_gas);
            prop_assert_eq!(got.floor, expected.floor_gas);
        }
    }
}
