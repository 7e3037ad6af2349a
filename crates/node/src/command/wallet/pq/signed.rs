//! Signed calls as a file: what `sign` prints and `relay` reads.

use crate::failure::Failure;
use alloy_primitives::U256;
use eyre::Result;
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::Path;
use trellis_contracts::accounts::{Call, Execute};
use trellis_market_chain::SignedCalls;
use trellis_primitives::{Address, B256, Bytes, Wei};

/// Bytes of such a file at most; a transaction takes no more.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Calls that an owner signed, with what it takes to make the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The chain that they are for.
    pub chain_id: u64,
    /// Whose they are.
    pub account: Address,
    /// Who owned the account first: a verifier's address, then the key.
    pub signer: Bytes,
    /// The account's salt.
    pub salt: B256,
    /// What is to happen.
    pub calls: Vec<SignedCall>,
    /// The account's next number.
    pub nonce: u64,
    /// The last Unix second in which they are good.
    pub deadline_s: u64,
    /// Who may bring them; zero: anybody.
    pub relayer: Address,
    /// What the account pays for that.
    pub fee_wei: Wei,
    /// Gas that must be left when the first call begins.
    pub gas: u64,
    /// The owner's signature.
    pub signature: Bytes,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedCall {
    /// Who is paid or called.
    pub target: Address,
    /// Wei that go with it.
    pub value_wei: Wei,
    /// Call data.
    pub data: Bytes,
}

impl Signed {
    /// Ready to be printed.
    ///
    /// # Errors
    /// An amount over 2^128 wei.
    pub fn of(chain_id: u64, signer: &Bytes, salt: B256, signed: &SignedCalls) -> Result<Self> {
        let SignedCalls { account, execute, signature } = signed;
        let call = |call: &Call| {
            Ok(SignedCall { target: call.target, value_wei: Wei::try_from(call.value)?, data: call.data.clone() })
        };
        Ok(Self {
            chain_id,
            account: *account,
            signer: signer.clone(),
            salt,
            calls: execute.calls.iter().map(call).collect::<Result<_>>()?,
            nonce: execute.nonce,
            deadline_s: execute.deadline,
            relayer: execute.relayer,
            fee_wei: Wei::try_from(execute.fee)?,
            gas: execute.gas.saturating_to(),
            signature: signature.clone(),
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// One that is missing, too long, or no signed calls.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let hint = "it is what `trellis wallet pq sign` printed";
        let file = std::fs::File::open(path)
            .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")).hint(hint))?;
        let mut text = String::new();
        let read = file.take(FILE_BYTES_MAX.saturating_add(1)).read_to_string(&mut text);
        let read = read.map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")).hint(hint))?;
        if u64::try_from(read).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
            let message = format!("{shown} has more than {FILE_BYTES_MAX} bytes");
            return Err(Failure::usage(message).hint(hint).into());
        }
        serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("{shown} holds no signed calls: {error}")).hint(hint).into())
    }

    /// The calls, where they are for this chain.
    ///
    /// # Errors
    /// Calls for another chain.
    pub fn calls(&self, chain_id: u64) -> Result<SignedCalls> {
        if self.chain_id != chain_id {
            return Err(Failure::usage(format!("the calls are for chain {}, this is chain {chain_id}", self.chain_id))
                .hint("name the other chain with --chain and --rpc")
                .into());
        }
        let call =
            |call: &SignedCall| Call { target: call.target, value: call.value_wei.to_u256(), data: call.data.clone() };
        let execute = Execute {
            calls: self.calls.iter().map(call).collect(),
            nonce: self.nonce,
            deadline: self.deadline_s,
            relayer: self.relayer,
            fee: self.fee_wei.to_u256(),
            gas: U256::from(self.gas),
        };
        Ok(SignedCalls { account: self.account, execute, signature: self.signature.clone() })
    }
}
