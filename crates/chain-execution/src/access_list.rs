//! `eth_createAccessList`: the accounts and slots that a call touches, found as geth finds them.

use crate::call::{output_of, run};
use crate::precompile::precompiles;
use crate::{CALL_GAS_MAX, CallError, ExecutionError, Executor, Overrides};
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_evm::Evm;
use alloy_primitives::{Address, B256, TxKind, U256};
use alloy_rpc_types::TransactionRequest;
use revm::Inspector;
use revm::bytecode::opcode;
use revm::context_interface::transaction::AuthorizationTr;
use revm::database_interface::DatabaseRef;
use revm::interpreter::Interpreter;
use revm::interpreter::interpreter_types::{InputsTr, Jumps};
use std::collections::{BTreeMap, BTreeSet};
use trellis_chain_storage::StateView;
use trellis_primitives::Header;

/// Runs of one call at most until its list stays the same. A list changes the gas that a contract sees, so a contract that
/// looks at its gas could touch something new in every run.
const RUNS_MAX: usize = 8;
/// Gas of one authorization (EIP-7702); a call with more of them than its gas pays for is refused before they are recovered.
const AUTHORIZATION_GAS: u64 = 25_000;

/// What a call touches.
#[derive(Debug)]
pub struct AccessListOutput {
    /// Accounts and slots, sorted. The sender, the called contract and the precompiled contracts are warm in any case, so
    /// they are named only where slots of theirs are touched.
    pub list: AccessList,
    /// Gas used by the call with the list.
    pub gas_used: u64,
    /// Why the call with the list failed, where it did: [`CallError::Reverted`] or [`CallError::Halted`].
    pub failure: Option<CallError>,
}

impl Executor {
    /// Runs a call, with the rules of [`Executor::call`], until the list of what it touches no longer changes anything.
    ///
    /// # Errors
    /// See [`CallError`]; a call that reverts has a list all the same.
    pub fn access_list(
        &self,
        view: &StateView,
        header: &Header,
        request: &TransactionRequest,
        overrides: &Overrides,
    ) -> Result<AccessListOutput, CallError> {
        let mut evm = self.call_evm(view, header, request, overrides, Touched::default())?;
        let gas_max = evm.block().gas_limit.min(CALL_GAS_MAX);
        let gas = request.gas.unwrap_or(gas_max).min(CALL_GAS_MAX);
        let nonce = evm.db().basic_ref(request.from.unwrap_or_default()).map_err(ExecutionError::from)?;
        let excluded = self.warm_anyway(request, gas, nonce.map(|info| info.nonce).unwrap_or_default())?;
        let spec = evm.cfg_env().spec;
        evm.enable_inspector();
        let looking = evm.inspector_mut();
        looking.excluded = excluded;
        looking.excluded.extend(precompiles(spec, self.config.genesis_hash).addresses());
        for item in request.access_list.iter().flat_map(|list| &list.0) {
            looking.add_account(item.address);
            item.storage_keys.iter().for_each(|slot| looking.add_slot(item.address, *slot));
        }
        let mut request = request.clone();
        for _ in 0..RUNS_MAX {
            let list = evm.inspector().list();
            request.access_list = Some(list.clone());
            let result = run(&mut evm, self.tx_env(&request, gas)?)?;
            if evm.inspector().list() == list {
                let gas_used = result.tx_gas_used();
                return Ok(AccessListOutput { list, gas_used, failure: output_of(result).err() });
            }
        }
        Err(CallError::Invalid(format!("the call touches something new in each of {RUNS_MAX} runs")))
    }

    /// What is warm without being named: the sender, whom it calls or creates, and the accounts that set their code.
    fn warm_anyway(
        &self,
        request: &TransactionRequest,
        gas: u64,
        sender_nonce: u64,
    ) -> Result<BTreeSet<Address>, CallError> {
        let from = request.from.unwrap_or_default();
        let to = match request.to {
            Some(TxKind::Call(to)) => to,
            Some(TxKind::Create) | None => from.create(sender_nonce),
        };
        let authorizations = request.authorization_list.as_deref().unwrap_or_default();
        let paid = usize::try_from(gas.div_euclid(AUTHORIZATION_GAS)).unwrap_or(usize::MAX);
        if authorizations.len() > paid {
            return Err(CallError::Invalid("insufficient gas to process all authorizations".to_owned()));
        }
        let chains = [U256::ZERO, U256::from(self.config.chain_id)];
        let valid = authorizations.iter().filter(|one| chains.contains(&one.chain_id()) && one.nonce() < u64::MAX);
        Ok(valid.filter_map(AuthorizationTr::authority).chain([from, to]).collect())
    }
}

/// Notes what is touched, as it is touched.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    excluded: BTreeSet<Address>,
    accounts: BTreeMap<Address, BTreeSet<B256>>,
}

impl Touched {
    fn add_account(&mut self, address: Address) {
        if !self.excluded.contains(&address) {
            self.accounts.entry(address).or_default();
        }
    }

    fn add_slot(&mut self, address: Address, slot: B256) {
        self.accounts.entry(address).or_default().insert(slot);
    }

    fn list(&self) -> AccessList {
        let item = |(address, slots): (&Address, &BTreeSet<B256>)| AccessListItem {
            address: *address,
            storage_keys: slots.iter().copied().collect(),
        };
        AccessList(self.accounts.iter().map(item).collect())
    }
}

impl<C> Inspector<C> for Touched {
    fn step(&mut self, interpreter: &mut Interpreter, _context: &mut C) {
        let word = |from_top| interpreter.stack.peek(from_top).map(B256::from);
        match interpreter.bytecode.opcode() {
            opcode::SLOAD | opcode::SSTORE => {
                if let Ok(slot) = word(0) {
                    self.add_slot(interpreter.input.target_address(), slot);
                }
            }
            opcode::EXTCODECOPY
            | opcode::EXTCODEHASH
            | opcode::EXTCODESIZE
            | opcode::BALANCE
            | opcode::SELFDESTRUCT => {
                if let Ok(address) = word(0) {
                    self.add_account(Address::from_word(address));
                }
            }
            opcode::DELEGATECALL | opcode::CALL | opcode::STATICCALL | opcode::CALLCODE => {
                if let Ok(address) = word(1) {
                    self.add_account(Address::from_word(address));
                }
            }
            _ => {}
        }
    }
}
