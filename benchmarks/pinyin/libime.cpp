// Converts pinyin by libime, the engine of fcitx5: a line of standard input to its first sentence and microseconds of the processor.
// Syllables are separated by apostrophes or not at all. Nothing is learned from what is converted.
#include <ctime>
#include <iostream>
#include <memory>
#include <string>

#include <libime/core/languagemodel.h>
#include <libime/core/userlanguagemodel.h>
#include <libime/pinyin/pinyincontext.h>
#include <libime/pinyin/pinyindictionary.h>
#include <libime/pinyin/pinyinime.h>

int main(int argc, char **argv) {
    auto dictionary = std::make_unique<libime::PinyinDictionary>();
    dictionary->load(libime::PinyinDictionary::SystemDict, argv[1], libime::PinyinDictFormat::Binary);
    auto model = std::make_unique<libime::UserLanguageModel>(
        libime::DefaultLanguageModelResolver::instance().languageModelFileForLanguage("zh_CN"));
    libime::PinyinIME ime(std::move(dictionary), std::move(model));
    ime.setScoreFilter(1.0F); // as fcitx5 does
    libime::PinyinContext context(&ime);
    std::string line;
    while (std::getline(std::cin, line)) {
        const std::clock_t started = std::clock();
        context.clear();
        context.type(line);
        const std::string sentence = context.sentence();
        const std::clock_t taken = std::clock() - started;
        std::cout << sentence << '\t' << taken << '\n';
    }
}
