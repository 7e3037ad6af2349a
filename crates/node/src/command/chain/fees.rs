//! `trellis chain fees`: what the commonest actions cost (CHN-54).

use crate::cli::FeesArgs;
use crate::failure::Failure;
use crate::fees::{ACTIONS, FEE_USD_MAX, Prices, trl_price_usd};
use crate::table::{print, print_json};
use alloy_primitives::U128;
use eyre::Result;
use serde_json::{Value, json};
use std::time::Duration;
use trellis_chain_spec::ChainSpec;
use trellis_rpc::TIP_WEI_MIN;

/// Seconds that a node has to answer.
const ANSWER_SECONDS_MAX: u64 = 30;
/// Wei in a gwei.
const GWEI: f64 = 1e9;

/// Prints the fees.
///
/// # Errors
/// A price that is none, a chain that is none, a node that does not answer.
pub async fn run(args: &FeesArgs) -> Result<()> {
    let trl_usd = trl_price_usd(&args.trl_price_usd)?;
    let (gas_price_wei, place) = match &args.rpc {
        Some(url) => (asked(url).await?, format!("asked by {url} now")),
        None => {
            let spec = ChainSpec::load(&args.chain)?;
            let floor = u128::from(spec.gas.base_fee_floor_wei);
            (floor.saturating_add(TIP_WEI_MIN), format!("asked by {} when it is idle", spec.genesis.name))
        }
    };
    let prices = Prices { gas_price_wei, trl_usd };
    if args.json {
        print_json(&to_json(&prices));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = ACTIONS
        .iter()
        .map(|action| {
            let (trl, usd) = (prices.trl(action.gas), prices.usd(action.gas));
            let under = if usd < FEE_USD_MAX { "yes" } else { "no" };
            vec![action.meaning.into(), action.gas.to_string(), format!("{trl:.9}"), format!("{usd:.9}"), under.into()]
        })
        .collect();
    print(&["ACTION", "GAS", "TRL", "USD", "UNDER A CENT"], &rows);
    #[allow(clippy::cast_precision_loss, reason = "shown to a few digits")]
    let gwei = gas_price_wei as f64 / GWEI;
    println!(
        "\nGas at {gwei} gwei, {place}; a TRL at {trl_usd} USD, which is an assumption (--trl-price-usd) and no market's price.\n\
         Every action stays under a cent up to {:.2} USD for a TRL.",
        prices.trl_usd_max()
    );
    Ok(())
}

/// What a node says that gas costs: base fee and tip.
async fn asked(url: &str) -> Result<u128> {
    let failed = |reason: String| {
        Failure::new(format!("{url} does not say what gas costs: {reason}"))
            .hint("give --rpc URL of a node of the chain")
    };
    let client = reqwest::Client::builder().timeout(Duration::from_secs(ANSWER_SECONDS_MAX)).build()?;
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_gasPrice", "params": []});
    let answer = client.post(url).json(&request).send().await.map_err(|error| failed(error.to_string()))?;
    let answer: Value = answer.json().await.map_err(|error| failed(error.to_string()))?;
    let price: U128 =
        serde_json::from_value(answer["result"].clone()).map_err(|error| failed(format!("{error}: {answer}")))?;
    Ok(price.to())
}

fn to_json(prices: &Prices) -> Value {
    let actions: serde_json::Map<String, Value> = ACTIONS
        .iter()
        .map(|action| {
            let (trl, usd) = (prices.trl(action.gas), prices.usd(action.gas));
            let fee = json!({"gas": action.gas, "trl": trl, "usd": usd, "under_a_cent": usd < FEE_USD_MAX});
            (action.name.to_owned(), fee)
        })
        .collect();
    json!({
        "gas_price_wei": prices.gas_price_wei.to_string(),
        "trl_price_usd": prices.trl_usd,
        "trl_price_is": "an assumption, no market's price",
        "trl_price_usd_max_for_a_cent": prices.trl_usd_max(),
        "actions": actions,
    })
}
