use pitstop_slots::{BootVars, ENV_SIZE, GrubEnv, GrubVars, SlotPair, UbootVars};
use pitstop_types::SlotName;

fn pair() -> SlotPair {
    let slot = |name| SlotName::new(name).expect("a name of a slot");
    SlotPair::new(slot("A"), slot("B")).expect("two slots")
}

/// GRUB's block, and the text of U-Boot's tool.
pub fn environment(data: &[u8]) {
    if let Ok(env) = GrubEnv::decode(data) {
        if let Ok(block) = env.encode() {
            assert_eq!(GrubEnv::decode(&block).as_ref(), Ok(&env), "written and read again it is another");
        }
        let vars = GrubVars::read(&env, &pair());
        let mut again = GrubEnv::default();
        vars.write(&mut again).expect("our variables fit");
        assert_eq!(GrubVars::read(&again, &pair()), vars);
        start(BootVars::Grub(vars));
    }
    if let Ok(text) = str::from_utf8(data) {
        let vars = UbootVars::read(text, &pair());
        assert_eq!(UbootVars::read(&vars.script('='), &pair()), vars);
        start(BootVars::Uboot(vars));
    }
}

/// Whatever the variables say, a slot of this vehicle starts, and the next starts too.
fn start(mut vars: BootVars) {
    for _ in 0..4 {
        let boot = vars.boot();
        assert!(vars.slots().contains(&boot.slot));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let slot = SlotName::new("B").expect("a name of a slot");
    let mut env = GrubEnv::default();
    GrubVars::fresh(&slot, &pair()).write(&mut env).expect("our variables fit");
    let block = env.encode().expect("they fit into a block");
    let mut torn = block.to_vec();
    torn.resize(ENV_SIZE / 2, 0);
    vec![block.to_vec(), torn, b"BOOT_ORDER=B A\nBOOT_A_LEFT=3\nBOOT_B_LEFT=0\n".to_vec()]
}
