//! `cargo +nightly fuzz run btf`: the kernel's types. The parser may refuse it, but neither panic nor take long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podmeter_fuzz::kernel::btf::Btf;

fuzz_target!(|bytes: &[u8]| {
    let Ok(btf) = Btf::parse(bytes.to_vec()) else { return };
    for (type_name, member) in [("outer", "x"), ("outer", "in.deep"), ("inner", "last")] {
        let _ = (btf.offset(type_name, member), btf.member_size(type_name, member));
    }
    let _ = (btf.typedef_id("inner_t"), btf.function_id("f"), btf.enum_names("e"), btf.tracepoint_takes("sched_switch", 1, "inner"));
});
