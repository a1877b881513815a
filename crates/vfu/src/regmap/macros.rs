//! The short form of a description.

/// Describes a BAR in one line a register. Makes a function that gives the
/// [`RegisterMap`](crate::regmap::RegisterMap), and the constants that the device's code uses: the
/// offset of each register, which is its id too, and the mask of each field, all of type `u64`.
///
/// ```
/// vfu::registers! {
///     /// What BAR 0 holds.
///     pub fn map("sampler", 4096);
///
///     0x00 CONTROL: Rw<u32>, "what to do" {
///         0 START: W1s, "takes samples";
///         4..=5 RATE, "how fast" { 0 = "slow", 1 = "medium", 2 = "fast" };
///     };
///     0x04 STATUS: W1c<u32> = 0x80, "what was done" .on_read("wakes the device");
///     0x10 SAMPLE[4; 2]: Ro<u16>, "the last samples";
/// }
///
/// assert_eq!((CONTROL, STATUS, SAMPLE), (0x00, 0x04, 0x10));
/// assert_eq!((START, RATE), (0x01, 0x30));
/// assert!(map().to_markdown().contains("| 0x04 | 4 | W1C | 0x00000080 | STATUS: what was done"));
/// ```
///
/// The first line has the name of the map and the size of the BAR, and may go on with methods of
/// the [builder](crate::regmap::RegisterMapBuilder), as in `pub fn map("x", 4096).widths(&[4]);`.
///
/// A register has its offset; its name; for an array the number of elements and their stride; its
/// [access](crate::regmap::BitAccess) and its width as a type; and where wanted the value after a
/// reset, a text, methods of [`Register`](crate::regmap::Register), and fields. A field has its
/// bits, its name, and where wanted its own access, a text, and names for its values.
///
/// # Panics
/// The function panics, with what to change, if the description has a mistake. A description is
/// constant: a test that calls the function once will tell.
#[macro_export]
macro_rules! registers {
    (
        $(#[$attribute:meta])*
        $vis:vis fn $map:ident($name:expr, $size:expr) $(.$method:ident($($arg:tt)*))*;
        $(
            $offset:literal $register:ident $([$count:expr; $stride:expr])?:
            $access:ident<$width:ident> $(= $reset:literal)? $(, $about:literal)?
            $(.$with:ident($($what:tt)*))*
            $({$(
                $low:literal $(..=$high:literal)? $field:ident
                $(: $field_access:ident)? $(, $field_about:literal)?
                $({$($value:literal = $meaning:literal),* $(,)?})?;
            )*})?;
        )*
    ) => {
        $(
            #[doc = concat!("The offset of register ", stringify!($register), ".")]
            $vis const $register: u64 = $offset;
            $($(
                #[doc = concat!("Field ", stringify!($field), " of ", stringify!($register), ".")]
                $vis const $field: u64 = $crate::regmap::mask(&[$low $(, $high)?]);
            )*)?
        )*

        $(#[$attribute])*
        $vis fn $map() -> $crate::regmap::RegisterMap {
            $crate::regmap::RegisterMap::builder($name, $size)
                $(.$method($($arg)*))*
                $(.register(
                    $crate::regmap::Register::new(
                        $register,
                        ::core::mem::size_of::<$width>() as u8,
                        stringify!($register),
                        $crate::regmap::BitAccess::$access,
                    )
                    $(.array($count, $stride))?
                    $(.reset($reset))?
                    $(.about($about))?
                    $(.$with($($what)*))*
                    $($(.field(
                        $crate::regmap::Field::new($field, stringify!($field))
                            $(.access($crate::regmap::BitAccess::$field_access))?
                            $(.about($field_about))?
                            $($(.value($value, $meaning))*)?
                    ))*)?
                ))*
                .build()
                .unwrap_or_else(|error| panic!("{error}"))
        }
    };
}

/// Ones from the first bit to the last.
#[doc(hidden)]
pub const fn mask(bits: &[u32]) -> u64 {
    let (low, high) = (bits[0], bits[bits.len() - 1]);
    assert!(low <= high && high < 64, "bits go from the lowest to the highest, 63 at most");
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}
