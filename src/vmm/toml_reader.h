#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "base/result.h"

namespace vmm {

// Reads values out of one TOML table, and knows which keys it was asked for, so that the others can
// be called unknown.
class TableReader {
 public:
  TableReader(const toml::table& table, std::string file, std::string prefix)
      : table_(table), file_(std::move(file)), prefix_(std::move(prefix)) {}

  [[nodiscard]] Error error_at(const toml::node& node, std::string_view what) const {
    const auto position = node.source().begin;
    return make_error(ErrorKind::kUsage, "{}:{}:{}: {}", file_, position.line, position.column,
                      what);
  }

  // The value of a key of type T, or nothing where the key is absent.
  template <typename T>
  [[nodiscard]] Result<std::optional<T>> get(std::string_view key, std::string_view type_name) {
    known_.emplace_back(key);
    const toml::node* node = table_.get(key);
    if (node == nullptr) return std::optional<T>();
    const auto value = node->value_exact<T>();
    if (!value)
      return fail(error_at(*node, fmt::format("{}{} is not {}", prefix_, key, type_name)));
    return std::optional<T>(*value);
  }

  [[nodiscard]] Result<std::optional<std::string>> get_string(std::string_view key) {
    return get<std::string>(key, "a string");
  }
  [[nodiscard]] Result<std::optional<bool>> get_bool(std::string_view key) {
    return get<bool>(key, "true or false");
  }

  // A nested table, or an empty one where the key is absent.
  [[nodiscard]] Result<TableReader> get_table(std::string_view key) {
    static const toml::table kEmpty;
    known_.emplace_back(key);
    const toml::node* node = table_.get(key);
    const toml::table* nested = node == nullptr ? &kEmpty : node->as_table();
    if (nested == nullptr) return fail(error_at(*node, fmt::format("{} is not a table", key)));
    return TableReader(*nested, file_, fmt::format("{}.", key));
  }

  // The tables of an array of tables ([[key]]), none where the key is absent.
  [[nodiscard]] Result<std::vector<TableReader>> get_tables(std::string_view key) {
    std::vector<TableReader> tables;
    known_.emplace_back(key);
    const toml::node* found = table_.get(key);
    if (found == nullptr) return tables;
    const toml::array* array = found->as_array();
    for (std::size_t index = 0; array != nullptr && index < array->size(); ++index) {
      const toml::table* nested = array->get(index)->as_table();
      if (nested == nullptr) break;
      tables.emplace_back(*nested, file_, fmt::format("{}.", key));
    }
    if (array == nullptr || tables.size() != array->size()) {
      return fail(error_at(*found, fmt::format("{0} is not a list of tables: write [[{0}]]", key)));
    }
    return tables;
  }

  // The path that a key names, relative to folder, or nothing where the key is absent.
  [[nodiscard]] Result<std::optional<std::filesystem::path>> get_path(
      std::string_view key, const std::filesystem::path& folder) {
    TRY(const auto text, get_string(key));
    if (!text) return std::optional<std::filesystem::path>();
    if (text->empty()) return fail(error_for(key, "is empty"));
    TRY(refuse_zero(key, *text));
    return std::optional(folder / *text);
  }
  // Error where the text of a key has a zero in it: what comes behind would be cut off unseen.
  [[nodiscard]] Result<> refuse_zero(std::string_view key, std::string_view text) const {
    if (text.find('\0') == std::string_view::npos) return success();
    return fail(error_for(key, "contains a zero character"));
  }

  [[nodiscard]] const toml::node* node(std::string_view key) {
    known_.emplace_back(key);
    return table_.get(key);
  }

  // Error about the value of a key that get() found.
  [[nodiscard]] Error error_for(std::string_view key, std::string_view what) const {
    return error_at(*table_.get(key), fmt::format("{}{} {}", prefix_, key, what));
  }
  // Error about a key that is missing from this table.
  [[nodiscard]] Error missing(std::string_view key) const {
    return make_error(ErrorKind::kUsage, "{}: {}{} is missing", file_, prefix_, key);
  }
  // Error about this table as a whole.
  [[nodiscard]] Error error_here(std::string_view what) const { return error_at(table_, what); }

  [[nodiscard]] Result<> refuse_unknown_keys() const {
    for (const auto& [key, node] : table_) {
      if (std::ranges::find(known_, key.str()) != known_.end()) continue;
      const auto position = key.source().begin;
      return fail(ErrorKind::kUsage, "{}:{}:{}: unknown key {}{}", file_, position.line,
                  position.column, prefix_, key.str());
    }
    return success();
  }

 private:
  const toml::table& table_;
  std::string file_;
  std::string prefix_;  // "boot." in [boot]
  std::vector<std::string> known_;
};

}  // namespace vmm
