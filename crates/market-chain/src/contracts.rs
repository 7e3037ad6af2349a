//! Call data, return values and events of our contracts, in our own types.

mod accounts;
mod channels;
mod settlement;
mod tokens;
mod validators;

pub use accounts::{AccountView, SignedCalls, SmartAccounts};
pub use channels::{ChannelEvent, ChannelStatus, ChannelTerms, ChannelView, ChannelsContract, SignedVoucher};
pub use settlement::{
    AggregatorView, BatchStatus, BatchTotals, BatchView, DemandStatus, DemandView, Fault, SettlementContract,
    SettlementEvent, SettlementTerms,
};
pub use tokens::{PositionView, StakingContract, WtrlContract};
pub use validators::{VALIDATORS_LISTED_MAX, ValidatorView, ValidatorsContract};

use alloy_primitives::U256;
use alloy_sol_types::{Panic, Revert, SolCall, SolError, SolInterface};
use trellis_contracts::fee_pool::FeePool::FeePoolErrors;
use trellis_contracts::payment_channels::PaymentChannels::PaymentChannelsErrors;
use trellis_contracts::provider_staking::ProviderStaking::ProviderStakingErrors;
use trellis_contracts::settlement::Settlement::SettlementErrors;
use trellis_contracts::smart_account::SmartAccount::SmartAccountErrors;
use trellis_contracts::validator_staking::ValidatorStaking::ValidatorStakingErrors;
use trellis_contracts::wtrl::WTRL::WTRLErrors;
use trellis_primitives::{Address, Wei};

use crate::client::ChainClient;
use crate::error::ChainError;

fn wei(what: &'static str, word: U256) -> Result<Wei, ChainError> {
    Wei::try_from(word).map_err(|error| ChainError::Decode { what, reason: error.to_string() })
}

/// Calls a view and decodes what it returns.
async fn view<C: SolCall>(
    client: &dyn ChainClient,
    to: Address,
    what: &'static str,
    call: &C,
) -> Result<C::Return, ChainError> {
    let answer = client.call(to, call.abi_encode().into()).await?;
    if answer.is_empty() {
        // What an address without code answers.
        let reason = format!("there is no contract at {to}");
        return Err(ChainError::Decode { what, reason });
    }
    C::abi_decode_returns(&answer).map_err(|error| ChainError::Decode { what, reason: error.to_string() })
}

/// The name and values of a revert, where it is an error of our contracts; else its first bytes.
#[must_use]
pub fn describe_revert(data: &[u8]) -> String {
    let ours = SettlementErrors::abi_decode(data)
        .map(|error| format!("{error:?}"))
        .or_else(|_| PaymentChannelsErrors::abi_decode(data).map(|error| format!("{error:?}")))
        .or_else(|_| ProviderStakingErrors::abi_decode(data).map(|error| format!("{error:?}")))
        .or_else(|_| FeePoolErrors::abi_decode(data).map(|error| format!("{error:?}")))
        .or_else(|_| SmartAccountErrors::abi_decode(data).map(|error| format!("{error:?}")))
        .or_else(|_| ValidatorStakingErrors::abi_decode(data).map(|error| format!("{error:?}")))
        .or_else(|_| WTRLErrors::abi_decode(data).map(|error| format!("{error:?}")));
    match ours {
        Ok(text) => text,
        Err(_) if data.starts_with(&Revert::SELECTOR) || data.starts_with(&Panic::SELECTOR) => {
            alloy_sol_types::decode_revert_reason(data).unwrap_or_else(|| first_bytes(data))
        }
        Err(_) => first_bytes(data),
    }
}

fn first_bytes(data: &[u8]) -> String {
    format!("0x{}", alloy_primitives::hex::encode(data.get(..data.len().min(68)).unwrap_or_default()))
}
