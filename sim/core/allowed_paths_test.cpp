#include "sim/core/allowed_paths.hpp"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// A tree that has what is inside and what is outside:
///
///   home/configs/, home/validation/   the shipped files
///   desk/study/point.json             the config, desk/study/sub/ below it
///   desk/trace.csv, secret.csv        beside it and outside
class Tree : public TestFolder {
 public:
  Tree() {
    for (const char* file :
         {"home/configs/gpu.json", "home/validation/rows.json", "home/secret.json",
          "desk/study/point.json", "desk/study/sub/base.json", "desk/trace.csv", "secret.csv"}) {
      write(file, R"({"batch": 1})");
    }
    setenv("NEARKV_HOME", at("home").c_str(), 1);
    fs::current_path(at("desk"));
  }
  ~Tree() {
    fs::current_path(before_);
    home_.empty() ? unsetenv("NEARKV_HOME") : setenv("NEARKV_HOME", home_.c_str(), 1);
    allowed_paths() = AllowedPaths::everything();
  }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  [[nodiscard]] std::string at(const std::string& name) const {
    return (fs::canonical(path()) / name).string();
  }

 private:
  static std::string home_before() {
    const char* home = std::getenv("NEARKV_HOME");
    return home != nullptr ? home : "";
  }
  fs::path before_ = fs::current_path();
  std::string home_ = home_before();
};

AllowedPaths allowed_for(const fs::path& config) {
  AllowedPaths allowed;
  allowed.allow_for_config(config);
  return allowed;
}

std::string refusal_of(const fs::path& config) {
  try {
    static_cast<void>(load_config(config));
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("allowed paths: a library may read everything") {
  const Tree tree;
  CHECK(allowed_paths().allows("/etc/passwd"));
  CHECK(allowed_paths().options() == std::vector<std::string>{"--allow-outside"});
  CHECK_FALSE(AllowedPaths().allows("/etc/passwd"));
}

TEST_CASE("allowed paths: below the config's folder, however the path is written") {
  const Tree tree;
  fs::current_path("/");  // the root folder adds nothing
  const AllowedPaths allowed = allowed_for(tree.at("desk/study/point.json"));
  CHECK(allowed.allows(tree.at("desk/study/sub/base.json")));
  CHECK(allowed.allows(tree.at("desk/study/not_there.csv")));
  CHECK(allowed.allows(tree.at("desk/study/sub/../point.json")));
  CHECK(allowed.allows(tree.at("desk/study") + "//sub/./base.json"));
  CHECK(allowed.allows(tree.at("desk/study").substr(1) + "/sub/base.json"));

  CHECK_FALSE(allowed.allows(tree.at("desk/trace.csv")));
  CHECK_FALSE(allowed.allows(tree.at("desk/study/../trace.csv")));
  CHECK_FALSE(allowed.allows(tree.at("desk/study/not_there/../../trace.csv")));
  CHECK_FALSE(allowed.allows(tree.at("desk/study_of_another/x.csv")));
  CHECK_FALSE(allowed.allows("/etc/passwd"));
  CHECK_FALSE(allowed.allows("/proc/self/cwd/etc/passwd"));
  CHECK_FALSE(allowed.allows(""));
}

TEST_CASE("allowed paths: a zero in a path does not hide what the system would open") {
  const Tree tree;
  const AllowedPaths allowed = allowed_for("study/point.json");
  const std::string hidden = tree.at("secret.csv") + std::string(1, '\0') + "/../desk/study/x.csv";
  CHECK_FALSE(allowed.allows(hidden));
}

TEST_CASE("allowed paths: links are followed") {
  const Tree tree;
  fs::create_symlink(tree.at("secret.csv"), "study/link.csv");
  fs::create_directory_symlink(tree.at("home"), "study/folder");
  fs::create_symlink("sub/base.json", "study/inside.json");
  fs::create_symlink("loop", "study/loop");
  const AllowedPaths allowed = allowed_for("study/point.json");
  CHECK_FALSE(allowed.allows("study/link.csv"));
  CHECK_FALSE(allowed.allows("study/folder/secret.json"));
  CHECK_FALSE(allowed.allows("study/folder/../secret.csv"));  // beside home, as the system sees it
  CHECK(allowed.allows("study/folder/configs/gpu.json"));     // shipped
  CHECK(allowed.allows("study/inside.json"));
  CHECK(allowed.allows("study/loop"));  // nothing can open it

  // The user named the link: what it points at is his, but its folder is not the config's.
  fs::create_symlink(tree.at("desk/study/point.json"), tree.at("link.json"));
  fs::current_path("/");
  fs::create_directory(tree.at("links"));
  fs::rename(tree.at("link.json"), tree.at("links/link.json"));
  CHECK_FALSE(allowed_for(tree.at("links/link.json")).allows(tree.at("desk/study/sub/base.json")));
}

TEST_CASE("allowed paths: the working folder counts when the config is in it, or shipped") {
  const Tree tree;
  CHECK(allowed_for("study/point.json").allows("trace.csv"));
  CHECK(allowed_for(tree.at("desk/study/point.json")).allows("trace.csv"));
  CHECK(allowed_for("trace.json").allows("study/sub/base.json"));
  CHECK(allowed_for(tree.at("home/configs/gpu.json")).allows("trace.csv"));
  CHECK_FALSE(allowed_for("../secret.json").allows("/etc/passwd"));

  fs::current_path(tree.at("desk/study/sub"));
  CHECK(allowed_for("../point.json").allows("base.json"));
  fs::current_path(tree.at("home"));
  CHECK_FALSE(allowed_for("../desk/study/point.json").allows("secret.json"));
  CHECK_FALSE(AllowedPaths().allows("secret.json"));
}

TEST_CASE("allowed paths: what is shipped, and no more of its folder") {
  const Tree tree;
  const AllowedPaths allowed = allowed_for("study/point.json");
  CHECK(allowed.allows(tree.at("home/configs/gpu.json")));
  CHECK(allowed.allows(tree.at("home/validation/rows.json")));
  CHECK_FALSE(allowed.allows(tree.at("home/configs/../secret.json")));
}

TEST_CASE("allowed paths: files that the user wrote with --set") {
  const Tree tree;
  allowed_paths() = allowed_for("study/point.json");
  json config{{"workload", {{"file", "trace.csv"}}}, {"kv", 1}};
  CHECK_FALSE(allowed_paths().allows("../secret.csv"));
  apply_override(config, "workload/file=../secret.csv");
  CHECK(allowed_paths().allows(tree.at("secret.csv")));
  CHECK_FALSE(allowed_paths().allows(tree.at("secret2.csv")));
  apply_override(config, R"(kv={"trace": "/data/a.kv", "more": ["/data/b.kv"]})");
  CHECK(allowed_paths().allows("/data/a.kv"));
  CHECK(allowed_paths().allows("/data/b.kv"));
  CHECK_FALSE(allowed_paths().allows("/data/c.kv"));
}

TEST_CASE("allowed paths: options hand on what is allowed") {
  const Tree tree;
  AllowedPaths allowed = allowed_for("study/point.json");
  allowed.allow_named_in("/data/a.kv");
  CHECK(allowed.options() == std::vector<std::string>{"--allow-outside=" + tree.at("desk/study"),
                                                      "--allow-outside=" + tree.at("desk"),
                                                      "--allow-outside=/data/a.kv"});
  CHECK(AllowedPaths().options().empty());
  AllowedPaths everything = AllowedPaths::everything();
  everything.allow("/x");
  everything.allow_named_in("/y");
  CHECK(everything.options() == std::vector<std::string>{"--allow-outside"});
}

TEST_CASE("allowed paths: a config that extends a file outside is refused, there or not") {
  const Tree tree;
  allowed_paths() = allowed_for("study/point.json");
  const auto message = [&](const std::string& written, const std::string& file) {
    return "study/point.json: /x/0/extends: \"" + written + "\" is " + file +
           ", which a config may not name; it may name what is below " + tree.at("desk/study") +
           ", " + tree.at("desk") + ", " + tree.at("home/configs") + ", " +
           tree.at("home/validation") +
           "; move the file there, or give --allow-outside if you trust the config";
  };
  const auto refusal_of_extending = [&](const std::string& written) {
    tree.write("desk/study/point.json", json{{"x", {{{"extends", written}}}}}.dump());
    return refusal_of("study/point.json");
  };
  CHECK(refusal_of_extending("../../secret.csv") ==
        message("../../secret.csv", tree.at("secret.csv")));
  CHECK(refusal_of_extending("/etc/not_there.json") ==
        message("/etc/not_there.json", "/etc/not_there.json"));
  CHECK(refusal_of_extending("nearkv:../secret.json") ==
        message("nearkv:../secret.json", tree.at("home/secret.json")));
  CHECK(refusal_of_extending("sub/base.json").empty());
  CHECK(refusal_of_extending("nearkv:gpu.json").empty());
  CHECK(refusal_of_extending("../trace.csv").empty());  // of the working folder

  // What is extended may not lead outside either.
  tree.write("desk/study/sub/far.json", R"({"extends": "../../../secret.csv"})");
  CHECK(refusal_of_extending("sub/far.json")
            .starts_with("study/sub/far.json: /extends: \"../../../secret.csv\" is "));

  allowed_paths() = AllowedPaths::everything();
  CHECK(refusal_of_extending("../../secret.csv").empty());
}

TEST_CASE("allowed paths: a field that names a file outside is refused with its JSON path") {
  const Tree tree;
  allowed_paths() = allowed_for("study/point.json");
  struct Named {
    std::string trace;
    void fields(FieldVisitor& v) { file_field(v, "trace", trace, "a file"); }
  };
  const auto refusal = [](const std::string& file) -> std::string {
    Named named;
    try {
      read_fields(json{{"trace", file}}, [&named](FieldVisitor& v) { named.fields(v); });
      return "";
    } catch (const ConfigError& error) {
      return error.what();
    }
  };
  CHECK(refusal("trace.csv").empty());
  CHECK(refusal("/data/x\n.csv")
            .starts_with("/trace: \"/data/x\\n.csv\" is /data/x\\n.csv, which a config may not "));
  allowed_paths().allow("/data");
  CHECK(refusal("/data/x\n.csv").empty());
}

}  // namespace nearkv
