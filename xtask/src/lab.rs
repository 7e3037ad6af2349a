//! The laboratory's matrix: what is reached today beside what theory allows (NET-43, OPS-06).

use eyre::{Result, bail};
use std::collections::BTreeMap;
use trellis_scenarios::lab::matrix::{Outcome, all_pairs, measure};
use trellis_scenarios::lab::theory::{self, HOMES, Pair};

/// Runs the pairs that were named, or all, and prints what came out.
pub fn run(json: bool, wanted: &[String]) -> Result<()> {
    let pairs = if wanted.is_empty() { all_pairs() } else { named(wanted)? };
    eprintln!("lab: {} pairs; homes are network namespaces, nodes are real processes", pairs.len());
    let outcomes = measure(&pairs);
    if json {
        println!("{:#}", serde_json::json!({ "pairs": outcomes }));
    } else {
        print!("{}", table(&outcomes, &theory::pairs()));
    }
    let missing = missing(&outcomes, &theory::pairs());
    if !missing.is_empty() {
        bail!("not as theory says: {}", missing.join("; "));
    }
    Ok(())
}

/// The pairs that were not reached, and those without the direct path that theory allows.
pub fn missing(outcomes: &[Outcome], theory: &[Pair]) -> Vec<String> {
    let owed = |one: &Outcome| theory.iter().any(|pair| pair.a == one.a && pair.b == one.b && (pair.udp || pair.tcp));
    let of = |one: &Outcome| match (one.reached, one.path.as_deref()) {
        (false, _) => Some(format!("{} - {} not reached", one.a, one.b)),
        (true, path) if path != Some("direct") && owed(one) => Some(format!("{} - {} not direct", one.a, one.b)),
        _ => None,
    };
    outcomes.iter().filter_map(of).collect()
}

/// The middle of the times to a direct path, among those that began with another, in milliseconds.
pub fn median_upgrade_ms(outcomes: &[Outcome]) -> Option<u64> {
    let mut times: Vec<u64> = outcomes.iter().filter_map(|one| one.direct_ms).filter(|ms| *ms > 0).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

fn named(wanted: &[String]) -> Result<Vec<(String, String)>> {
    let known = all_pairs();
    let mut pairs = Vec::new();
    for text in wanted {
        let pair = text.split_once(',').map(|(a, b)| (a.trim().to_owned(), b.trim().to_owned()));
        match pair.filter(|pair| known.contains(pair)) {
            Some(pair) => pairs.push(pair),
            None => bail!("no pair {text:?}; name two of {}", HOMES.join(", ")),
        }
    }
    Ok(pairs)
}

/// One line for each provider's home, one column for each gateway's; then what is missing.
pub fn table(outcomes: &[Outcome], theory: &[Pair]) -> String {
    let direct: BTreeMap<(&str, &str), bool> =
        theory.iter().map(|pair| ((pair.a.as_str(), pair.b.as_str()), pair.udp || pair.tcp)).collect();
    let columns: Vec<&str> = HOMES.into_iter().filter(|home| outcomes.iter().any(|one| one.b == *home)).collect();
    let mut text = format!("{:<18}", "provider \\ gateway");
    columns.iter().for_each(|home| text.push_str(&format!("{home:<20}")));
    text.push('\n');
    let (mut reached, mut owed) = (0, 0);
    for row in HOMES {
        let cells: Vec<&Outcome> =
            columns.iter().filter_map(|home| outcomes.iter().find(|one| one.a == row && one.b == *home)).collect();
        if cells.is_empty() {
            continue;
        }
        text.push_str(&format!("{row:<18}"));
        for home in &columns {
            let cell = cells.iter().find(|one| one.b == *home);
            let possible = direct.get(&(row, *home)).copied().unwrap_or(false);
            reached += usize::from(cell.is_some_and(|one| one.reached));
            owed += usize::from(possible && cell.is_some_and(|one| one.path.as_deref() != Some("direct")));
            text.push_str(&format!("{:<20}", cell.map_or_else(String::new, |one| shown(one, possible))));
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "{reached} of {} pairs reached; {owed} have no direct path although theory allows one (tests/lab/theory.toml)\n",
        outcomes.len()
    ));
    if let Some(ms) = median_upgrade_ms(outcomes) {
        text.push_str(&format!("median time from a relayed to a direct path: {ms} ms\n"));
    }
    text
}

fn shown(outcome: &Outcome, possible: bool) -> String {
    match (&outcome.path, outcome.reached) {
        (Some(path), true) => {
            let upgrade = outcome.direct_ms.filter(|ms| *ms > 0).map(|ms| format!(" +{ms}")).unwrap_or_default();
            format!("{path} {}{upgrade} ms", outcome.first_byte_ms.unwrap_or_default())
        }
        (None, true) => "reached".into(),
        (_, false) if possible => "no (direct owed)".into(),
        (_, false) => "no (relay owed)".into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod tests {
    use super::*;

    fn outcome(a: &str, b: &str, reached: bool) -> Outcome {
        let path = reached.then(|| "direct".to_owned());
        Outcome {
            a: a.into(),
            b: b.into(),
            reached,
            path,
            first_byte_ms: reached.then_some(7),
            direct_ms: reached.then_some(0),
        }
    }

    // row: OPS-06
    #[test]
    fn the_json_has_the_keys_of_the_specification() {
        let value = serde_json::to_value(outcome("open", "cgnat", true)).expect("JSON");
        let mut keys: Vec<&String> = value.as_object().expect("object").keys().collect();
        keys.sort();
        assert_eq!(keys, ["a", "b", "direct_ms", "first_byte_ms", "path", "reached"]);
    }

    #[test]
    fn the_table_says_what_is_owed() {
        let outcomes =
            [outcome("open", "cgnat", true), outcome("cgnat", "cgnat", false), outcome("symmetric", "cgnat", false)];
        let text = table(&outcomes, &theory::pairs());
        assert!(
            text.contains("direct 7 ms") && text.contains("no (direct owed)") && text.contains("no (relay owed)"),
            "{text}"
        );
        assert!(text.contains("1 of 3 pairs reached; 1 have no direct path"), "{text}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut relayed = outcome("open", "cgnat", true);
        relayed.path = Some("relay".into());
        let outcomes = [outcome("cgnat", "cgnat", true), outcome("symmetric", "cgnat", false), relayed];
        let missing = missing(&outcomes, &theory::pairs());
        assert_eq!(missing, ["symmetric - cgnat not reached", "open - cgnat not direct"]);
    }

    #[test]
    fn an_unknown_home_is_refused() {
        assert!(named(&["open,moon".to_owned()]).is_err());
        assert_eq!(named(&["open, cgnat".to_owned()]).expect("a pair").len(), 1);
    }
}
