use super::*;
use crate::money::DOLLAR;

fn usage(input: u64, read: u64, write: u64, hour: u64, output: u64) -> Usage {
    Usage {
        input_tokens: input,
        cache_read_input_tokens: read,
        cache_creation_input_tokens_5min: write,
        cache_creation_input_tokens_1h: hour,
        output_tokens: output,
        ..Usage::default()
    }
}

fn row() -> PriceRow {
    let tier = |up_to, factor: i64| Tier {
        input_tokens_up_to: up_to,
        input: Some(3 * factor * DOLLAR),
        output: Some(15 * factor * DOLLAR),
        cache_read: Some(3 * factor * DOLLAR / 10),
        cache_write_5min: Some(375 * factor * DOLLAR / 100),
        cache_write_1h: Some(6 * factor * DOLLAR),
        ..Tier::default()
    };
    let mut row = PriceRow::default();
    row.modes[0] = Mode { each_call: Some(7), tiers: vec![tier(1_000, 1), tier(0, 2)] };
    row.modes[3].tiers = vec![tier(0, 3)];
    row.each_tool_call = Some(DOLLAR / 100);
    row
}

#[test]
fn every_counter_is_billed_once_at_its_own_price() {
    let used = usage(100, 200, 300, 400, 500);
    let expected =
        100 * 3_000_000 + 200 * 300_000 + 300 * 3_750_000 + 400 * 6_000_000 + 500 * 15_000_000 + 7;
    assert_eq!(row().applied(&used, ServiceTier::Default).cost(&used), expected);
    let used = Usage { tool_calls: 2, ..usage(0, 0, 0, 0, 0) };
    assert_eq!(row().applied(&used, ServiceTier::Default).cost(&used), DOLLAR / 50 + 7);
}

#[test]
fn the_whole_prompt_chooses_the_tier_of_the_whole_call() {
    let at = |input, read| {
        let used = usage(input, read, 0, 0, 1);
        row().applied(&used, ServiceTier::Default).tier.input
    };
    assert_eq!(at(400, 600), Some(3 * DOLLAR));
    assert_eq!(at(401, 600), Some(6 * DOLLAR));
}

#[test]
fn the_tier_that_was_served_decides_and_falls_back_where_it_has_no_prices() {
    let used = usage(10, 0, 0, 0, 0);
    let input = |served| row().applied(&used, served).tier.input;
    assert_eq!(input(ServiceTier::Priority), Some(9 * DOLLAR));
    assert_eq!(input(ServiceTier::Flex), Some(3 * DOLLAR));
    assert_eq!(row().applied(&used, ServiceTier::Priority).each_call, Some(7));
}

#[test]
fn a_cost_is_worked_out_again_from_the_prices_that_were_kept() {
    let mut row = row();
    row.input_audio = Some(40 * DOLLAR);
    let used = Usage { input_audio_tokens: 3, ..usage(10, 1, 2, 3, 4) };
    let applied = row.applied(&used, ServiceTier::Default);
    let again = Applied::from_json(&applied.to_json()).expect("what was written is read");
    assert_eq!(again.cost(&used), applied.cost(&used));
    assert_eq!(
        applied.cost(&used) - Applied { input_audio: None, ..applied }.cost(&used),
        3 * 37_000_000
    );
    assert_eq!(Applied::from_json("{\"price_each_call\":1}"), None);
    assert_eq!(Applied::from_json("[]"), None);
}

#[test]
fn images_are_billed_one_by_one_or_by_their_tokens() {
    let mut row = row();
    (row.each_image, row.output_image) = (Some(DOLLAR / 25), Some(30 * DOLLAR));
    let used = Usage {
        images: 3,
        input_image_tokens: 6,
        output_image_tokens: 4,
        output_audio_tokens: 1,
        ..usage(10, 0, 0, 0, 9)
    };
    let applied = row.applied(&used, ServiceTier::Default);
    // Audio, and images in the prompt, cost what text costs.
    let expected = 3 * DOLLAR / 25 + 10 * 3_000_000 + 5 * 15_000_000 + 4 * 30_000_000 + 7;
    assert_eq!(applied.cost(&used), expected);
    let again = Applied::from_json(&applied.to_json()).expect("what was written is read");
    assert_eq!(again.cost(&used), expected);
    row.modes[0].tiers[0].each_image = Some(0);
    let free = row.applied(&used, ServiceTier::Default);
    assert_eq!(free.cost(&used), expected - 3 * DOLLAR / 25);
}

#[test]
fn at_most_a_prompt_is_written_to_a_cache_and_an_answer_is_sound() {
    let used = usage(1_000_000, 0, 0, 0, 1_000_000);
    let mut row = row();
    row.modes[0] = Mode { each_call: None, tiers: vec![row.modes[0].tiers[0]] };
    let at_most = |row: &PriceRow, hour| {
        row.applied(&used, ServiceTier::Default).at_most(&used, hour) * 100 / DOLLAR
    };
    assert_eq!((at_most(&row, false), at_most(&row, true)), (375 + 1_500, 600 + 1_500));
    row.output_audio = Some(64 * DOLLAR);
    assert_eq!(at_most(&row, true), 600 + 6_400);
    row.modes[0].tiers[0].cache_write_5min = None;
    assert_eq!(at_most(&row, false), 300 + 6_400);
}

#[test]
fn costs_round_half_up_and_saturate() {
    let tier = Tier { input: Some(1), ..Tier::default() };
    let applied = Applied { tier, ..Applied::default() };
    assert_eq!(applied.cost(&usage(499_999, 0, 0, 0, 0)), 0);
    assert_eq!(applied.cost(&usage(500_000, 0, 0, 0, 0)), 1);
    let dear = Tier { input: Some(i64::MAX), ..Tier::default() };
    let applied = Applied { tier: dear, ..Applied::default() };
    assert_eq!(applied.cost(&usage(u64::MAX, 0, 0, 0, 0)), COST_MAX);
}

#[test]
fn what_a_cache_does_costs_what_any_token_costs_where_nothing_else_is_said() {
    let used = usage(1, 10, 100, 1_000, 0);
    let cost = |tier: Tier| {
        let mut row = PriceRow::default();
        row.modes[0].tiers = vec![tier];
        row.applied(&used, ServiceTier::Default).cost(&used)
    };
    let plain = Tier { input: Some(2 * DOLLAR), ..Tier::default() };
    assert_eq!(cost(plain), 1_111 * 2_000_000);
    assert_eq!(cost(Tier { cache_read: Some(0), ..plain }), 1_101 * 2_000_000);
    let written = Tier { cache_write_5min: Some(3 * DOLLAR), ..plain };
    assert_eq!(cost(written), 11 * 2_000_000 + 1_100 * 3_000_000);
    // A price that is not there is none to take.
    assert_eq!(cost(Tier::default()), 0);
}
