//! Whether comparing secrets tells by its time where they differ: Welch's t-test, after [dudect].
//!
//! Two classes are measured in random order: secrets that differ in their first byte, and secrets that differ in their
//! last. A comparison that stops at the first difference tells them apart at once (shown with `==` on slices); one in
//! constant time does not. The program fails where a comparison of ours does, or where the check itself would see nothing.
//!
//! [dudect]: https://eprint.iacr.org/2016/1123

#![expect(clippy::print_stdout, reason = "the figures are what it is run for")]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use threepid_domain::model::{KeyedHash, Token};

/// Measurements of each comparison, both classes together.
const SAMPLES: usize = 400_000;
/// Comparisons in one measurement: a single one is shorter than the clock can tell.
const AT_ONCE: usize = 50;
/// Above this, the classes differ; dudect's bound.
const BOUND: f64 = 4.5;
/// A measurement that took longer than this part of all was interrupted, and says nothing.
const KEPT: f64 = 0.95;

fn main() -> ExitCode {
    let secret = [b'a'; 32];
    let (mut early, mut late) = (secret, secret);
    early[0] = b'b';
    late[31] = b'b';
    let long = |first: u8, last: u8| {
        let mut bytes = vec![b'a'; 4096];
        bytes[0] = first;
        bytes[4095] = last;
        bytes
    };
    let (long_secret, long_early, long_late) = (long(b'a', b'a'), long(b'b', b'a'), long(b'a', b'b'));
    let token = |bytes: &[u8]| Token::new(String::from_utf8_lossy(bytes).into_owned());
    let hashes = [KeyedHash::new(secret), KeyedHash::new(early), KeyedHash::new(late)];
    let tokens = [token(&secret), token(&early), token(&late)];

    let control = welch(|is_late| {
        *black_box(&long_secret) == *black_box(if is_late { &long_late } else { &long_early })
    });
    let hash = welch(|is_late| *black_box(&hashes[0]) == *black_box(&hashes[if is_late { 2 } else { 1 }]));
    let text = welch(|is_late| *black_box(&tokens[0]) == *black_box(&tokens[if is_late { 2 } else { 1 }]));
    println!(
        "{SAMPLES} measurements of {AT_ONCE} comparisons each; |t| above {BOUND} tells the classes apart"
    );
    println!("slices with ==  |t| = {control:8.1}   (the control: has to tell)");
    println!("KeyedHash       |t| = {hash:8.1}");
    println!("Token           |t| = {text:8.1}");
    if control > BOUND && hash <= BOUND && text <= BOUND { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The |t| of Welch's test between both classes.
fn welch(compare: impl Fn(bool) -> bool) -> f64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut measured: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..SAMPLES {
        // xorshift: which class comes next must not follow a pattern.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let is_late = state & 1 == 1;
        let begun = Instant::now();
        for _ in 0..AT_ONCE {
            black_box(compare(black_box(is_late)));
        }
        measured[usize::from(is_late)].push(begun.elapsed().as_nanos() as f64);
    }
    let mut all: Vec<f64> = measured.concat();
    all.sort_by(f64::total_cmp);
    let longest = all[((all.len() - 1) as f64 * KEPT) as usize];
    let [a, b] = measured.map(|class| moments(&class, longest));
    (a.mean - b.mean).abs() / (a.variance / a.count + b.variance / b.count).sqrt()
}

struct Moments {
    count: f64,
    mean: f64,
    variance: f64,
}

fn moments(class: &[f64], longest: f64) -> Moments {
    let kept: Vec<f64> = class.iter().copied().filter(|time| *time <= longest).collect();
    let count = kept.len() as f64;
    let mean = kept.iter().sum::<f64>() / count;
    let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Moments { count, mean, variance }
}
