//! What it costs to read endpoints and a configuration of many rules.

use std::fmt::Write;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mcr_proto::config;
use mcr_proto::endpoint::{Input, Output};

const RULES: usize = 1000;

fn endpoints(c: &mut Criterion) {
    let mut group = c.benchmark_group("endpoint");
    let input = "10.0.0.9>232.1.1.1:5000@eth0";
    let output = "239.2.2.2:6000@eth1,ttl=16,dscp=af41,source=keep,loop=on,rate=10M";
    group.bench_function("parse input", |b| b.iter(|| black_box(input).parse::<Input>()));
    group.bench_function("parse output", |b| b.iter(|| black_box(output).parse::<Output>()));
    let parsed: Output = output.parse().expect("the output is valid");
    group.bench_function("write output", |b| b.iter(|| black_box(&parsed).to_string()));
    group.finish();
}

fn configurations(c: &mut Criterion) {
    let mut text = String::new();
    for index in 0..RULES {
        let (high, low) = (index / 256, index % 256);
        let _ = write!(
            text,
            "[[rule]]\nname = \"rule-{index}\"\ninput = \"239.1.{high}.{low}:5000@eth0\"\n\
             outputs = [\"239.2.{high}.{low}:6000@eth1,ttl=16\", \"10.100.0.2:6000\"]\n"
        );
    }
    let parsed = config::parse(&text, "bench.toml").expect("the configuration is valid");
    let mut group = c.benchmark_group("config");
    group.throughput(Throughput::Elements(RULES as u64));
    group.bench_function("parse", |b| b.iter(|| config::parse(black_box(&text), "bench.toml")));
    group.bench_function("write", |b| b.iter(|| config::to_toml(black_box(&parsed))));
    group.bench_function("check", |b| {
        b.iter_batched(
            || &parsed.rules,
            |rules| rules.iter().all(|rule| rule.check().is_ok()),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, endpoints, configurations);
criterion_main!(benches);
