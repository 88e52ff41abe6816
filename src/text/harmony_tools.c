// SPDX-License-Identifier: MIT
// Tool declarations: a JSON schema becomes a TypeScript-like type, as the published renderer does
// it down to its white space, because the models were trained on that.
// Source: openai/harmony, docs/format.md "Function calling"; the corner cases (titles, examples,
// oneOf, nullable) follow what its renderer was seen to give.
#include "text/harmony_impl.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

// Deeper schemas are cut to "any"; the deepest seen in practice have about ten levels.
#define MAX_DEPTH 64

static void put_type(struct td_text *b, const json_t *schema, size_t indent, uint32_t depth);

static const char *string_of(const json_t *schema, const char *key)
{
    return json_string_value(json_object_get(schema, key));
}

static bool is_enum(const json_t *schema)
{
    return json_array_size(json_object_get(schema, "enum")) > 0;
}

static void put_json(struct td_text *b, const json_t *v)
{
    // 15 digits: what a person wrote comes back as it was written (0.1, not 0.10000000000000001).
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    if (!text) {
        b->no_memory = true;
        return;
    }
    td_text_puts(b, text);
    free(text);
}

// A default value: strings in quotes, except among the names of an enum.
static void put_default(struct td_text *b, const json_t *v, bool is_name)
{
    td_text_puts(b, "default: ");
    if (!json_is_string(v)) {
        put_json(b, v);
        return;
    }
    if (!is_name) td_text_puts(b, "\"");
    td_text_puts(b, json_string_value(v));
    if (!is_name) td_text_puts(b, "\"");
}

static void put_comment(struct td_text *b, size_t indent, const char *text)
{
    td_text_pad(b, indent);
    td_text_puts(b, "// ");
    td_text_puts(b, text);
    td_text_puts(b, "\n");
}

// The type, and "| null" where the schema allows it and the type does not say so yet.
static void put_nullable_type(struct td_text *b, const json_t *schema, size_t indent,
                              uint32_t depth)
{
    const size_t from = b->n;
    put_type(b, schema, indent, depth + 1);
    if (!json_is_true(json_object_get(schema, "nullable")) || b->no_memory) return;
    for (size_t i = from; i + 4 <= b->n; i++)
        if (memcmp(b->at + i, "null", 4) == 0) return;
    td_text_puts(b, " | null");
}

// What stands behind a variant of a oneOf.
static void put_variant_comment(struct td_text *b, const char *description, const json_t *value,
                                bool is_name)
{
    if (!description && !value) return;
    td_text_puts(b, " // ");
    if (description) td_text_puts(b, description);
    if (description && value) td_text_puts(b, " ");
    if (value) put_default(b, value, is_name);
}

static void put_one_of(struct td_text *b, const json_t *variants, size_t indent, uint32_t depth)
{
    size_t i;
    const json_t *variant;
    json_array_foreach(variants, i, variant)
    {
        td_text_puts(b, "\n");
        td_text_pad(b, indent);
        td_text_puts(b, " | ");
        put_nullable_type(b, variant, indent + 3, depth);
        put_variant_comment(b, string_of(variant, "description"),
                            json_object_get(variant, "default"), false);
    }
}

// A property whose type is a oneOf: the variants stand below its name, one a line.
static void put_one_of_property(struct td_text *b, const json_t *schema, const json_t *variants,
                                size_t indent, uint32_t depth)
{
    const char *description = string_of(schema, "description");
    size_t i;
    const json_t *variant;
    td_text_puts(b, ":\n");
    json_array_foreach(variants, i, variant)
    {
        td_text_pad(b, indent);
        td_text_puts(b, " | ");
        put_nullable_type(b, variant, indent + 3, depth);
        // A first variant that repeats the property's description is the one that shows it.
        const char *own = string_of(variant, "description");
        const char *first = string_of(json_array_get(variants, 0), "description");
        const bool is_above = description && !(first && strcmp(first, description) == 0);
        if (own && ((i == 0 && is_above) || (description && strcmp(own, description) == 0)))
            own = NULL;
        put_variant_comment(b, own, json_object_get(variant, "default"), is_enum(variant));
        td_text_puts(b, "\n");
    }
    td_text_pad(b, indent);
    td_text_puts(b, ",\n");
}

static void put_property_comments(struct td_text *b, const json_t *schema, const json_t *variants,
                                  size_t indent)
{
    const char *title = string_of(schema, "title");
    const char *description = string_of(schema, "description");
    if (title) {
        put_comment(b, indent, title);
        td_text_pad(b, indent);
        td_text_puts(b, "//\n");
    }
    if (description && !json_object_get(schema, "oneOf")) put_comment(b, indent, description);
    const json_t *examples = json_object_get(schema, "examples");
    if (json_array_size(examples) > 0) {
        size_t i;
        const json_t *example;
        put_comment(b, indent, "Examples:");
        json_array_foreach(examples, i, example)
        {
            if (!json_is_string(example)) continue;
            td_text_pad(b, indent);
            td_text_puts(b, "// - \"");
            td_text_puts(b, json_string_value(example));
            td_text_puts(b, "\"\n");
        }
    }
    if (!variants) return;
    const char *first = string_of(json_array_get(variants, 0), "description");
    if (description && !(first && strcmp(first, description) == 0))
        put_comment(b, indent, description);
    const json_t *value = json_object_get(schema, "default");
    if (!value) return;
    td_text_pad(b, indent);
    td_text_puts(b, "// ");
    put_default(b, value, is_enum(schema));
    td_text_puts(b, "\n");
}

static void put_property(struct td_text *b, const char *name, const json_t *schema,
                         bool is_required, size_t indent, uint32_t depth)
{
    const json_t *variants = json_object_get(schema, "oneOf");
    if (!json_is_array(variants)) variants = NULL;
    put_property_comments(b, schema, variants, indent);
    td_text_pad(b, indent);
    td_text_puts(b, name);
    if (!is_required) td_text_puts(b, "?");
    if (variants) {
        put_one_of_property(b, schema, variants, indent, depth);
        return;
    }
    td_text_puts(b, ": ");
    put_nullable_type(b, schema, indent + 4, depth);
    td_text_puts(b, ",");
    const json_t *value = json_object_get(schema, "default");
    if (value && !json_object_get(schema, "oneOf")) {
        td_text_puts(b, " // ");
        put_default(b, value, is_enum(schema));
    }
    td_text_puts(b, "\n");
}

static bool is_required(const json_t *schema, const char *name)
{
    const json_t *required = json_object_get(schema, "required");
    size_t i;
    const json_t *entry;
    json_array_foreach(required, i, entry)
    {
        const char *text = json_string_value(entry);
        if (text && strcmp(text, name) == 0) return true;
    }
    return false;
}

static void put_object(struct td_text *b, const json_t *schema, size_t indent, uint32_t depth)
{
    const char *description = string_of(schema, "description");
    if (description) put_comment(b, indent, description);
    td_text_puts(b, "{\n");
    json_t *properties = json_object_get(schema, "properties");
    // Jansson keeps the order in which the members were written.
    for (void *at = json_object_iter(properties); at; at = json_object_iter_next(properties, at)) {
        const char *name = json_object_iter_key(at);
        put_property(b, name, json_object_iter_value(at), is_required(schema, name), indent, depth);
    }
    td_text_pad(b, indent);
    td_text_puts(b, "}");
}

static void put_enum(struct td_text *b, const json_t *schema)
{
    size_t i, n_put = 0;
    const json_t *value;
    json_array_foreach(json_object_get(schema, "enum"), i, value)
    {
        if (!json_is_string(value)) continue;
        td_text_puts(b, n_put++ > 0 ? " | \"" : "\"");
        td_text_puts(b, json_string_value(value));
        td_text_puts(b, "\"");
    }
    if (n_put == 0) td_text_puts(b, "string");
}

static const char *simple_name(const char *type)
{
    return strcmp(type, "integer") == 0 ? "number" : type;
}

// "type": ["string", "null"]; false when no member is a name.
static bool put_union(struct td_text *b, const json_t *types)
{
    size_t i, n_put = 0;
    const json_t *type;
    json_array_foreach(types, i, type)
    {
        if (!json_is_string(type)) continue;
        if (n_put++ > 0) td_text_puts(b, " | ");
        td_text_puts(b, simple_name(json_string_value(type)));
    }
    return n_put > 0;
}

static void put_type(struct td_text *b, const json_t *schema, size_t indent, uint32_t depth)
{
    const json_t *variants = json_object_get(schema, "oneOf");
    const json_t *types = json_object_get(schema, "type");
    const char *type = depth > MAX_DEPTH ? NULL : json_string_value(types);
    if (depth <= MAX_DEPTH && json_is_array(variants)) {
        put_one_of(b, variants, indent, depth);
    } else if (type && strcmp(type, "object") == 0) {
        put_object(b, schema, indent, depth);
    } else if (type && strcmp(type, "string") == 0) {
        put_enum(b, schema);
    } else if (type && strcmp(type, "array") == 0) {
        const json_t *items = json_object_get(schema, "items");
        if (items) put_type(b, items, indent, depth + 1);
        td_text_puts(b, items ? "[]" : "Array<any>");
    } else if (type && (strcmp(type, "number") == 0 || strcmp(type, "integer") == 0 ||
                        strcmp(type, "boolean") == 0)) {
        td_text_puts(b, simple_name(type));
    } else if (!json_is_array(types) || !put_union(b, types)) {
        td_text_puts(b, "any");
    }
}

// "// " before every line of a description.
static void put_lines(struct td_text *b, const char *text)
{
    while (text && *text) {
        const char *end = strchr(text, '\n');
        size_t n = end ? (size_t)(end - text) : strlen(text);
        const char *next = end ? end + 1 : NULL;
        if (n > 0 && text[n - 1] == '\r') n--;
        td_text_puts(b, "// ");
        td_text_put(b, text, n);
        td_text_puts(b, "\n");
        text = next;
    }
}

static int put_tool(struct td_text *b, const struct td_tool *tool, struct td_error *err)
{
    json_t *schema = NULL;
    if (tool->parameters) {
        json_error_t why;
        schema = json_loads(tool->parameters, 0, &why);
        if (!schema || !json_is_object(schema)) {
            json_decref(schema);
            return td_fail(err, TD_EARG, "the parameters of tool '%s' are not a JSON object: %s",
                           tool->name, schema ? "another kind of value" : why.text);
        }
    }
    put_lines(b, tool->description);
    td_text_puts(b, "type ");
    td_text_puts(b, tool->name);
    // A function that takes nothing has no argument, also when its schema says so at length.
    const char *type = string_of(schema, "type");
    const bool takes_nothing =
        !schema || json_object_size(schema) == 0 ||
        (type && strcmp(type, "object") == 0 && !json_object_get(schema, "oneOf") &&
         json_object_size(json_object_get(schema, "properties")) == 0);
    if (takes_nothing) {
        td_text_puts(b, " = () => any;\n\n");
    } else {
        td_text_puts(b, " = (_: ");
        put_type(b, schema, 0, 0);
        td_text_puts(b, ") => any;\n\n");
    }
    json_decref(schema);
    return TD_OK;
}

int td_harmony_tools(struct td_text *b, const struct td_tool *tools, size_t n_tools,
                     struct td_error *err)
{
    td_text_puts(b, "# Tools\n\n## functions\n\nnamespace functions {\n\n");
    for (size_t i = 0; i < n_tools; i++) {
        const int code = put_tool(b, &tools[i], err);
        if (code) return code;
    }
    td_text_puts(b, "} // namespace functions");
    return TD_OK;
}
