#include "vmm/tls_commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <array>
#include <ctime>

#include "migration/tls_authority.h"
#include "migration/tls_identity.h"
#include "vmm/json_access.h"

namespace vmm {
namespace json = boost::json;

namespace {

Result<std::filesystem::path> path_of(const TlsFolder& folder) {
  if (folder.path) return *folder.path;
  return migration::default_tls_folder();
}

Result<std::string> own_host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) {
    return fail_errno(ErrorKind::kHost, "this host's name is not to be had: give --name");
  }
  return std::string(name.data());
}

// "2026-11-29 00:41 UTC"
std::string date(std::time_t time) {
  std::tm fields{};
  ::gmtime_r(&time, &fields);
  return fmt::format("{:04}-{:02}-{:02} {:02}:{:02} UTC", fields.tm_year + 1900, fields.tm_mon + 1,
                     fields.tm_mday, fields.tm_hour, fields.tm_min);
}

}  // namespace

Result<> init_tls(const TlsFolder& folder, const std::optional<std::string>& name) {
  TRY(const auto path, path_of(folder));
  std::string host = name.value_or("");
  if (!name) {
    TRY(host, own_host_name());
  }
  TRY(migration::make_authority(path, host, migration::default_validity(std::time(nullptr))));
  return show_tls({path}, false);
}

Result<> issue_tls(const TlsFolder& folder, const std::string& host,
                   const std::optional<std::filesystem::path>& out) {
  TRY(const auto path, path_of(folder));
  const auto where = out.value_or(host);
  TRY(migration::issue(path, host, where, migration::default_validity(std::time(nullptr))));
  print(fmt::format("{0}: copy it to {1}, as its TLS folder, and keep no other copy\n",
                    where.string(), host));
  return success();
}

Result<> revoke_tls(const TlsFolder& folder, const std::string& whom) {
  TRY(const auto path, path_of(folder));
  TRY(const auto peer, migration::PeerId::parse(whom));
  TRY(const auto revoked, migration::revoke(path, peer, std::time(nullptr)));
  for (const auto& one : revoked) print(fmt::format("revoked {}\n", one.text()));
  print(fmt::format("{}: copy it into the TLS folder of every host\n",
                    (path / migration::kRevocationFile).string()));
  return success();
}

Result<> show_tls(const TlsFolder& folder, bool as_json) {
  TRY(const auto path, path_of(folder));
  const auto file = path / migration::kCertificateFile;
  TRY(const auto pem, migration::read_tls_file(file));
  TRY(const auto certificates, migration::parse_certificates(pem, file));
  const auto info = migration::describe(*certificates.front());
  const bool authority = ::access((path / migration::kCaKeyFile).c_str(), F_OK) == 0;
  const std::string_view role = authority ? "host and CA" : "host";
  if (as_json) {
    const json::object object{{"names", json::array(info.names.begin(), info.names.end())},
                              {"fingerprint", info.fingerprint},
                              {"valid_from", info.valid_from},
                              {"valid_until", info.valid_until},
                              {"role", role}};
    print(json::serialize(object) + "\n");
    return success();
  }
  print(fmt::format("name         {}\nfingerprint  {}\nvalid        {} to {}\nrole         {}\n",
                    fmt::join(info.names, ", "), info.fingerprint, date(info.valid_from),
                    date(info.valid_until), role));
  return success();
}

}  // namespace vmm
