//! `trellis receipt …` (MKT-21): offline, from the journals.

use crate::chain::contracts_of;
use crate::cli::{ListArgs, ReceiptCommand};
use crate::command::spec_of;
use crate::failure::Failure;
use crate::ledger::{Entry, Ledger, ledgers, phase_word};
use crate::table::{print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::path::Path;
use trellis_chain_spec::ChainSpec;
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::{ReceiptParties, SignedReceipt};

/// Runs a receipt command.
pub async fn run(command: ReceiptCommand, datadir: Option<&Path>) -> Result<()> {
    match command {
        ReceiptCommand::List { list, limit } => listing(list, limit, datadir),
        ReceiptCommand::Show { id, list } => show(&id, list, datadir),
        ReceiptCommand::Verify { id, list } => verify(&id, list, datadir),
    }
}

fn listing(list: ListArgs, limit: usize, datadir: Option<&Path>) -> Result<()> {
    let mut entries = all(datadir)?;
    let skipped = entries.len().saturating_sub(limit);
    entries.drain(..skipped);
    if list.wants_json() {
        print_json(&json!({"receipts": entries.iter().map(entry_json).collect::<Vec<_>>(), "older": skipped}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let receipt = &entry.signed.receipt;
            vec![
                receipt.struct_hash().to_string().chars().take(18).collect(),
                entry.role.clone(),
                entry.at.to_rfc3339(),
                entry.signed.details.model.clone(),
                receipt.tokens_in.to_string(),
                receipt.tokens_out.to_string(),
                receipt.cost.to_string(),
                phase_word(entry.phase).to_owned(),
            ]
        })
        .collect();
    print(&["RECEIPT", "JOURNAL", "TIME", "MODEL", "IN", "OUT", "COST", "STATE"], &rows);
    if skipped > 0 {
        eprintln!("({skipped} older ones: --limit N)");
    }
    Ok(())
}

fn all(datadir: Option<&Path>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for ledger in ledgers(datadir)? {
        entries.extend(ledger.receipts()?);
    }
    entries.sort_by_key(|entry| entry.at);
    Ok(entries)
}

fn matches(entry: &Entry, id: &str) -> bool {
    let wanted = id.trim_start_matches("0x").to_lowercase();
    let hash = entry.signed.receipt.struct_hash().to_string();
    let job = entry.job.to_string();
    wanted.len() >= 8 && [hash, job].iter().any(|text| text.trim_start_matches("0x").starts_with(&wanted))
}

fn unknown(id: &str) -> Failure {
    Failure::new(format!("no receipt {id:?} in these journals"))
        .hint("`trellis receipt list` shows them; eight digits of a receipt's or a job's id are enough")
}

fn show(id: &str, list: ListArgs, datadir: Option<&Path>) -> Result<()> {
    let entry = all(datadir)?.into_iter().find(|entry| matches(entry, id)).ok_or_else(|| unknown(id))?;
    let value = entry_json(&entry);
    if list.wants_json() {
        print_json(&value);
        return Ok(());
    }
    let Value::Object(fields) = &value["signed"]["receipt"] else { return Ok(()) };
    let mut rows: Vec<Vec<String>> = fields.iter().map(|(key, value)| vec![key.clone(), plain(value)]).collect();
    rows.push(vec!["receipt_hash".into(), plain(&value["receipt"])]);
    rows.push(vec!["state".into(), plain(&value["state"])]);
    rows.push(vec!["post_quantum_proof".into(), plain(&value["post_quantum_proof"])]);
    print(&["FIELD", "VALUE"], &rows);
    Ok(())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "receipt": entry.signed.receipt.struct_hash(),
        "job": entry.job,
        "journal": entry.role,
        "time": entry.at.to_rfc3339(),
        "state": phase_word(entry.phase),
        "model": entry.signed.details.model,
        "cost_wei": entry.signed.receipt.cost,
        "written_off_wei": entry.signed.receipt.written_off,
        "post_quantum_proof": !entry.signed.pq_proof.is_empty(),
        "signed": entry.signed,
    })
}

/// What verifying one receipt found.
struct Checked {
    name: String,
    fault: Option<String>,
}

fn verify(id: &str, list: ListArgs, datadir: Option<&Path>) -> Result<()> {
    let spec = spec_of(datadir)?;
    let mut checked = Vec::new();
    let file = Path::new(id);
    if file.is_file() {
        let ledgers = ledgers(datadir)?;
        for signed in of_file(file)? {
            let parties = ledgers.iter().find_map(|ledger| ledger.parties(signed.receipt.channel));
            checked.push(check(&spec, &signed, parties));
        }
    } else {
        for ledger in ledgers(datadir)? {
            for entry in ledger.receipts()?.into_iter().filter(|entry| id == "all" || matches(entry, id)) {
                if entry.signed.is_complete() {
                    checked.push(check(&spec, &entry.signed, ledger_parties(&ledger, &entry)));
                }
            }
        }
        if checked.is_empty() && id != "all" {
            return Err(unknown(id).into());
        }
    }
    report(&checked, list)
}

/// The receipts of a file: one as `receipt show` prints it, or a list as `receipt list` does.
fn of_file(file: &Path) -> Result<Vec<SignedReceipt>> {
    let name = file.display();
    let value: Value = serde_json::from_str(&std::fs::read_to_string(file)?)
        .map_err(|error| Failure::new(format!("{name} is not JSON: {error}")))?;
    let entries = match value.get("receipts") {
        Some(Value::Array(entries)) => entries.iter().collect(),
        _ => vec![&value],
    };
    let signed = entries.into_iter().map(|entry| {
        serde_json::from_value(entry.get("signed").unwrap_or(entry).clone()).map_err(|error| {
            Failure::new(format!("{name} holds no receipt: {error}"))
                .hint("save one with `trellis receipt show ID --json`, or all with `trellis receipt list --json`")
                .into()
        })
    });
    signed.collect()
}

fn ledger_parties(ledger: &Ledger, entry: &Entry) -> Option<ReceiptParties> {
    ledger.parties(entry.signed.receipt.channel)
}

fn check(spec: &ChainSpec, signed: &SignedReceipt, parties: Option<ReceiptParties>) -> Checked {
    let name = signed.receipt.struct_hash().to_string();
    let contracts = contracts_of(spec);
    let domain = Domain { chain_id: spec.genesis.chain_id, contract: contracts.settlement };
    let fault = match parties {
        None => Some("its channel is in no journal here, so nobody knows who must have signed".to_owned()),
        Some(parties) => signed
            .verify_details()
            .and_then(|()| signed.verify(&domain, contracts.payment_channels, &parties))
            .err()
            .map(|error| error.to_string()),
    };
    Checked { name, fault }
}

fn report(checked: &[Checked], list: ListArgs) -> Result<()> {
    let bad = checked.iter().filter(|one| one.fault.is_some()).count();
    if list.wants_json() {
        let receipts: Vec<Value> = checked
            .iter()
            .map(|one| json!({"receipt": one.name, "verifies": one.fault.is_none(), "fault": one.fault}))
            .collect();
        print_json(&json!({"receipts": receipts, "verified": checked.len() - bad, "bad": bad}));
    } else {
        for one in checked.iter().filter(|one| one.fault.is_some()) {
            println!("{}  {}", one.name, one.fault.as_deref().unwrap_or_default());
        }
        println!("{} verify, {bad} do not", checked.len() - bad);
    }
    if bad > 0 {
        return Err(Failure::new(format!("{bad} receipts do not verify")).into());
    }
    Ok(())
}
