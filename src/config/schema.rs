//! The JSON Schema of both roles' files, from the raw types.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::config::Role;
use crate::config::raw::hub::HubFile;
use crate::config::raw::proxy::ProxyFile;

/// The JSON Schema of one role's file, or of either with `None`: pretty-printed, with a last line end.
///
/// Each key has its description with unit, bounds and default. Scalars are described as they are after `${NAME}`
/// is substituted.
///
/// # Standard
/// JSON Schema draft 2020-12.
pub fn schema(role: Option<Role>) -> String {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.meta_schema = None);
    let mut generator = settings.with_transform(WithoutNull).into_generator();
    let mut root = Map::new();
    root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    root.insert("title".to_owned(), json!("Portreeve configuration"));
    let reference = match role {
        Some(Role::Proxy) => ("$ref", of_role::<ProxyFile>(&mut generator)),
        Some(Role::Hub) => ("$ref", of_role::<HubFile>(&mut generator)),
        None => {
            let both = [of_role::<ProxyFile>(&mut generator), of_role::<HubFile>(&mut generator)];
            let both: Vec<Value> = both.into_iter().map(|reference| json!({ "$ref": reference })).collect();
            ("oneOf", Value::Array(both))
        }
    };
    root.insert(reference.0.to_owned(), reference.1);
    root.insert("$defs".to_owned(), Value::Object(generator.take_definitions(true)));
    format!("{:#}\n", Value::Object(root))
}

/// Defines a role's file and gives the reference to it.
fn of_role<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    let reference = generator.subschema_for::<T>();
    reference.get("$ref").cloned().unwrap_or_default()
}

/// A key is either absent or has a value: `null` is refused in reading, so the schema does not offer it.
#[derive(Clone, Debug)]
struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(object) = schema.as_object_mut() {
            without_null_type(object);
            without_null_choice(object);
            match object.get_mut("default") {
                Some(Value::Null) => drop(object.remove("default")),
                Some(Value::Object(default)) => default.retain(|_, value| !value.is_null()),
                _ => {}
            }
            if let Some(Value::Array(values)) = object.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
        }
        transform_subschemas(self, schema);
    }
}

fn without_null_type(object: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = object.get_mut("type") else { return };
    types.retain(|name| name != "null");
    if let [only] = types.as_slice() {
        let only = only.clone();
        object.insert("type".to_owned(), only);
    }
}

fn without_null_choice(object: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else { return };
    choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
    if let [Value::Object(only)] = choices.as_slice() {
        let only = only.clone();
        object.remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}
