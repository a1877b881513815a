//! One shape for every set of flag bits on the wire.

/// Declares a newtype over an integer of flag bits, with its constants and the usual operators.
macro_rules! flags {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident($int:ty) {
            $($(#[$flag_meta:meta])* $flag:ident = $value:expr;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        $vis struct $name($int);

        impl $name {
            $($(#[$flag_meta])* pub const $flag: $name = $name($value);)*

            /// Every bit that has a name.
            pub const KNOWN: $name = $name(0 $(| $value)*);

            /// No bit set.
            pub const fn empty() -> Self {
                Self(0)
            }

            /// The bits as on the wire, those without a name included.
            pub const fn bits(self) -> $int {
                self.0
            }

            /// Takes the bits as they are, those without a name included.
            pub const fn from_bits_retain(bits: $int) -> Self {
                Self(bits)
            }

            /// Takes the bits if all of them have a name.
            pub const fn from_bits(bits: $int) -> Option<Self> {
                if bits & !Self::KNOWN.0 == 0 { Some(Self(bits)) } else { None }
            }

            /// True if all bits of `other` are set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// True if at least one bit of `other` is set.
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// True if no bit is set.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// The bits of both.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The bits of this one without those of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut separator = "";
                $(
                    if self.contains(Self::$flag) {
                        write!(f, "{separator}{}", stringify!($flag))?;
                        separator = "|";
                    }
                )*
                let rest = self.0 & !Self::KNOWN.0;
                if rest != 0 || self.0 == 0 {
                    write!(f, "{separator}{rest:#x}")?;
                }
                Ok(())
            }
        }
    };
}
