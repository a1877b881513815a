//! The code of the guide, whose chapters are in `src/`: `cargo test -p vfu-guide` compiles and runs
//! every block of them.

/// The device that grows from chapter to chapter, as it is in the end. The example `copier` serves
/// it.
pub mod copier {
    pub mod device;
    pub mod engine;
    pub mod first;
    pub mod registers;
}

/// A test for each block of each chapter.
#[cfg(doctest)]
mod chapters {
    macro_rules! chapters {
        ($($name:ident $file:literal)*) => {
            $(
                #[doc = include_str!(concat!("src/", $file))]
                struct $name;
            )*
        };
    }

    chapters! {
        Introduction "introduction.md"
        FirstDevice "first-device.md"
        Registers "registers.md"
        Dma "dma.md"
        Interrupts "interrupts.md"
        LifeCycle "life-cycle.md"
        Migration "migration.md"
        ConfigurationSpace "configuration-space.md"
        Regions "regions.md"
        Testing "testing.md"
        Fuzzing "fuzzing.md"
        Embedding "embedding.md"
        Performance "performance.md"
        Peers "peers.md"
        Security "security.md"
        Limits "limits.md"
        Debugging "debugging.md"
        Glossary "glossary.md"
    }
}
