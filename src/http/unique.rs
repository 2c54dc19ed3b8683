//! Refuses JSON objects with duplicate members. A deserializer would keep one of them, and it is unclear which one was meant.
//!
//! It wraps the deserializer and checks while reading: borrowed names are not copied, and nothing is read twice.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

/// Deserializes a value; errors have the path of the fault. Duplicate members are an error at any depth.
pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(reader: D) -> Result<T, serde_path_to_error::Error<D::Error>> {
    serde_path_to_error::deserialize(Unique::value(reader))
}

/// What is being read: a value, or the name of a member.
trait Position<'de> {
    fn note<E: de::Error>(self, text: &str) -> Result<(), E>;
    fn note_borrowed<E: de::Error>(self, text: &'de str) -> Result<(), E>;
}

struct InValue;

impl<'de> Position<'de> for InValue {
    fn note<E: de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn note_borrowed<E: de::Error>(self, _: &'de str) -> Result<(), E> {
        Ok(())
    }
}

/// Stores the names that came before.
struct InName<'n, 'de>(&'n mut HashSet<Cow<'de, str>>);

impl<'de> InName<'_, 'de> {
    fn insert<E: de::Error>(self, name: Cow<'de, str>) -> Result<(), E> {
        if self.0.contains(&name) {
            return Err(E::custom("the object has duplicate members of this name; keep one of them"));
        }
        self.0.insert(name);
        Ok(())
    }
}

impl<'de> Position<'de> for InName<'_, 'de> {
    fn note<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.insert(Cow::Owned(text.to_owned()))
    }

    fn note_borrowed<E: de::Error>(self, text: &'de str) -> Result<(), E> {
        self.insert(Cow::Borrowed(text))
    }
}

/// Wraps a part of the deserialization: a deserializer, a visitor, a seed, or the access to a list or an enum.
struct Unique<T, P = InValue> {
    inner: T,
    position: P,
}

impl<T> Unique<T> {
    fn value(inner: T) -> Self {
        Self { inner, position: InValue }
    }
}

macro_rules! forward_reads {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($argument,)* Unique { inner: visitor, position: self.position })
        }
    )*};
}

impl<'de, D: Deserializer<'de>, P: Position<'de>> Deserializer<'de> for Unique<D, P> {
    type Error = D::Error;

    forward_reads! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(length: usize);
        deserialize_tuple_struct(name: &'static str, length: usize);
        deserialize_map();
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

impl<'de, S: DeserializeSeed<'de>, P: Position<'de>> DeserializeSeed<'de> for Unique<S, P> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Unique { inner: reader, position: self.position })
    }
}

macro_rules! forward_visits {
    ($($method:ident: $type:ty;)*) => {$(
        fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>, P: Position<'de>> Visitor<'de> for Unique<V, P> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    forward_visits! {
        visit_bool: bool;
        visit_i8: i8;
        visit_i16: i16;
        visit_i32: i32;
        visit_i64: i64;
        visit_i128: i128;
        visit_u8: u8;
        visit_u16: u16;
        visit_u32: u32;
        visit_u64: u64;
        visit_u128: u128;
        visit_f32: f32;
        visit_f64: f64;
        visit_char: char;
        visit_bytes: &[u8];
        visit_borrowed_bytes: &'de [u8];
        visit_byte_buf: Vec<u8>;
    }

    // The name is read before it is refused, so that the path of the error ends with it.

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        let noted = self.position.note(text);
        let value = self.inner.visit_str(text)?;
        noted.map(|()| value)
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<V::Value, E> {
        let noted = self.position.note_borrowed(text);
        let value = self.inner.visit_borrowed_str(text)?;
        noted.map(|()| value)
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<V::Value, E> {
        let noted = self.position.note(&text);
        let value = self.inner.visit_string(text)?;
        noted.map(|()| value)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Unique { inner: reader, position: self.position })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, reader: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Unique { inner: reader, position: self.position })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Unique::value(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(UniqueMembers { inner: members, names: HashSet::new() })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Unique::value(variant))
    }
}

/// Access to the members of one object.
struct UniqueMembers<'de, A> {
    inner: A,
    names: HashSet<Cow<'de, str>>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for UniqueMembers<'de, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(Unique { inner: seed, position: InName(&mut self.names) })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Unique::value(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Unique<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(Unique::value(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Unique<A> {
    type Error = A::Error;
    type Variant = Unique<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, variant) = self.inner.variant_seed(Unique::value(seed))?;
        Ok((name, Unique::value(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Unique<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(Unique::value(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(length, Unique::value(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Unique::value(visitor))
    }
}
